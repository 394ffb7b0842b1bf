//! eBPF programs of the benchmarks; none of them is part of the load balancer.
//!
//! `feed` writes a whole frame into the packet, the next flow's each time. The programs do one thing with it: hand it to
//! the program under measurement by a tail call (`programs::feed_*`), send it out (`programs::generate_*`), or count what
//! arrives (`programs::xdp_count`). `parts` has targets that do one thing only, to tell what it costs.
//!
//! For any other target than eBPF this is an empty program, so that the workspace builds as a whole.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod feed;
#[cfg(target_arch = "bpf")]
mod parts;
#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[expect(unsafe_code, reason = "the kernel reads the licence from a section of this name")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
