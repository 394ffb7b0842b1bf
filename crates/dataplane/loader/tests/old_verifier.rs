//! What kernels before 6.8 ask of a program's shape, so that a newer one at hand does not hide it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use aya_obj::{Object, generated::bpf_insn};

const CLASS: u8 = 0x07;
const JUMPS: [u8; 2] = [0x05, 0x06];
const OPERATION: u8 = 0xf0;
const ALWAYS: u8 = 0x00;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
/// A constant of 64 bits takes two instructions.
const WIDE: u8 = 0x18;

#[derive(Clone, Copy, PartialEq)]
enum Seen {
    No,
    OnTheWay,
    Done,
}

/// Where an instruction leads, and whether that may be a loop: the order is the kernel's (`visit_insn` of
/// kernel/bpf/verifier.c, Linux 6.1).
fn leads_to(instructions: &[bpf_insn], at: usize) -> Vec<(usize, bool)> {
    let instruction = &instructions[at];
    if !JUMPS.contains(&(instruction.code & CLASS)) {
        return vec![(at + if instruction.code == WIDE { 2 } else { 1 }, false)];
    }
    let target = (at + 1).checked_add_signed(instruction.off.into()).unwrap();
    match instruction.code & OPERATION {
        EXIT => vec![],
        CALL => vec![(at + 1, false)],
        ALWAYS => vec![(target, true)],
        _ => vec![(at + 1, true), (target, true)],
    }
}

/// The first instruction that would be taken for a back edge (`check_cfg`): one that is no jump, and goes on with what leads
/// to it.
fn back_edge(instructions: &[bpf_insn]) -> Option<usize> {
    let mut seen = vec![Seen::No; instructions.len()];
    let mut stack = vec![(0, 0)];
    seen[0] = Seen::OnTheWay;
    while let Some((at, edge)) = stack.last_mut() {
        let Some((next, may_loop)) = leads_to(instructions, *at).get(*edge).copied() else {
            seen[*at] = Seen::Done;
            stack.pop();
            continue;
        };
        *edge += 1;
        match seen[next] {
            Seen::No => {
                seen[next] = Seen::OnTheWay;
                stack.push((next, 0));
            }
            Seen::OnTheWay if !may_loop => return Some(*at),
            Seen::OnTheWay | Seen::Done => {}
        }
    }
    None
}

/// Kernels before 6.8 let only jumps go back; whatever merely runs into the head of a loop that it came from they refuse.
#[test]
fn nothing_runs_into_a_loop_from_behind() {
    let object = Object::parse(evenkeel_loader::OBJECT).unwrap();
    let mut refused = Vec::new();
    for function in object.functions.values() {
        if let Some(at) = back_edge(&function.instructions) {
            refused.push(format!("{} at {at} of {}", function.name, function.instructions.len()));
        }
    }
    assert!(refused.is_empty(), "an older kernel refuses: {refused:#?}");
}
