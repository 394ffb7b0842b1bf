//! The faults, step by step.

use std::time::Duration;

use anyhow::Result;

use crate::{
    attached::Attached,
    case::Scenario,
    director::{Director, SegmentKind},
};

/// Between the endpoint's end and SIGTERM, in S1.
const PRE_STOP: Duration = Duration::from_secs(5);
/// From SIGTERM until the endpoint begins to terminate, in S2: kubelet and endpoint controller work at the same time, and
/// the longer way is the controller's.
const NEWS: Duration = Duration::from_millis(500);
/// From a backend's silent death until its endpoint goes.
const DETECTION: Duration = Duration::from_secs(1);
/// How long the load balancer is down in S9.
const OUTAGE: Duration = Duration::from_secs(10);
/// The same where no time is judged.
const BRIEF_OUTAGE: Duration = Duration::from_secs(1);
/// How long UDP goes on with an endpoint that terminates.
const TERMINATING: Duration = Duration::from_secs(2);
/// Until nothing is left of what looking at the kernel cost.
const SETTLED: Duration = Duration::from_millis(100);
/// How long to watch what a fault leads to.
const AFTERMATH: Duration = Duration::from_secs(2);

/// Makes a scenario's fault happen, and stays until what it leads to is over.
pub(crate) fn strike(scenario: Scenario, director: &mut Director) -> Result<()> {
    match scenario {
        Scenario::S1 => replace(director, if director.brief { TERMINATING } else { PRE_STOP }),
        Scenario::S2 => end_before_the_news(director),
        Scenario::S3 => silent_death(director),
        Scenario::S4 => {
            director.begin(SegmentKind::Unjudged);
            silent_death(director)?;
            director.begin(SegmentKind::Fault);
            // Every source port comes up again.
            director.pause(2000 * Duration::from_secs(1) / 300)
        }
        Scenario::S5 => take_away(director),
        Scenario::S9 => crash(director),
        Scenario::S10 => upgrade(director),
    }
}

/// One pod of a rolling update: the new one is ready, the old one terminates, and ends after a pause.
fn replace(director: &mut Director, pre_stop: Duration) -> Result<()> {
    let old = director.oldest()?;
    director.add_spare()?;
    director.pause(Duration::from_millis(500))?;
    director.set_terminating(&old)?;
    director.pause(pre_stop)?;
    director.stop(&old)?;
    director.remove(&old)?;
    director.pause(AFTERMATH)
}

/// A pod without a pause: it closes its listener while the news of it are still on their way.
fn end_before_the_news(director: &mut Director) -> Result<()> {
    let old = director.oldest()?;
    director.add_spare()?;
    director.pause(Duration::from_millis(500))?;
    let told = director.now();
    director.stop(&old)?;
    director.pause((told + NEWS).saturating_sub(director.now()))?;
    director.set_terminating(&old)?;
    director.pause(Duration::from_millis(500))?;
    director.remove(&old)?;
    director.pause(AFTERMATH)
}

/// A backend of UDP terminates, then is gone: endpoint and server at the same moment.
fn take_away(director: &mut Director) -> Result<()> {
    let old = director.oldest()?;
    director.add_spare()?;
    director.pause(Duration::from_millis(500))?;
    director.set_terminating(&old)?;
    director.pause(TERMINATING)?;
    director.remove(&old)?;
    director.stop(&old)?;
    director.pause(AFTERMATH)
}

fn silent_death(director: &mut Director) -> Result<()> {
    let old = director.oldest()?;
    director.lose(&old)?;
    director.pause(DETECTION)?;
    director.remove(&old)?;
    director.add_spare()?;
    director.pause(AFTERMATH)
}

fn crash(director: &mut Director) -> Result<()> {
    let outage = if director.brief { BRIEF_OUTAGE } else { OUTAGE };
    let before = inspect(director)?;
    director.begin(SegmentKind::Fault);
    director.subject.crash()?;
    director.pause(outage / 2)?;
    // Somebody has to answer who has the addresses, the load balancer being dead. One by one, for `ip neigh flush` goes round
    // until nothing is left: what is learnt meanwhile it deletes as well, and tells whoever waits for it "unreachable".
    for address in director.subject.addresses() {
        director.site.lab.client.ip(["neigh", "del", &address.to_string(), "dev", "eth0"])?;
    }
    director.pause(outage / 2)?;
    director.subject.start()?;
    director.pause(AFTERMATH)?;
    let after = inspect(director)?;
    director.note(compare(&before, |before| after.ensure_adopted(before, before.hook())));
    Ok(())
}

fn upgrade(director: &mut Director) -> Result<()> {
    let before = inspect(director)?;
    director.begin(SegmentKind::Fault);
    director.subject.upgrade()?;
    director.pause(AFTERMATH)?;
    let after = inspect(director)?;
    director.note(compare(&before, |before| after.ensure_replaced(before, before.hook())));
    Ok(())
}

/// What the subject has in the kernel. To look takes processes of its own, whose effect is not the fault's; but they make no request
/// fail.
fn inspect(director: &mut Director) -> Result<Attached> {
    director.begin(SegmentKind::Untimed);
    let attached = director.subject.attached()?;
    director.pause(SETTLED)?;
    Ok(attached)
}

/// Subjects that have nothing in the kernel have nothing to show.
fn compare(before: &Attached, judge: impl FnOnce(&Attached) -> Result<()>) -> Result<()> {
    if before == &Attached::default() { Ok(()) } else { judge(before) }
}
