//! How long Maglev tables take, in processor time of the thread that computes them.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;

use evenkeel_plan::maglev::{Member, Roster, Seed, Table};

const ROUNDS: usize = 11;

fn main() {
    println!("{:<58} {:>10}  {:>10}", "", "median", "most");
    report("5,000 tables of 10 backends", || {
        for n in 0..5_000 {
            black_box(table(n, 10));
        }
    });
    report("5,000 tables of 10 backends, with digests", || {
        for n in 0..5_000 {
            black_box(table(n, 10).digest());
        }
    });
    for backends in [100, 1_000, 5_000] {
        report(&format!("one table of {backends} backends"), || _ = black_box(table(0, backends)));
    }
}

/// The table of service `n`.
fn table(n: u32, backends: u32) -> Table {
    let address = |m| (Ipv4Addr::from_bits(0x0b00_0000 + n * 16 + m), 8080).into();
    Table::new(Roster::new((0..backends).map(|m| Member { address: address(m), weight: 1 })), Seed::default())
}

fn report(what: &str, mut measured: impl FnMut()) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = processor_time();
            measured();
            processor_time() - start
        })
        .collect();
    times.sort_unstable();
    let ms = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
    println!("{what:<58} {:>10}  {:>10}", ms(times[ROUNDS / 2]), ms(times[ROUNDS - 1]));
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
