//! Backends that are no longer endpoints and have connections all the same: are they still there, and do their clients know if
//! not?
//!
//! An endpoint that goes says nothing about its backend, which may go on serving whom it has (a label that was changed), or be
//! gone for good without having closed anything. A client that only waits for an answer would never hear of that. Who gets a
//! segment that does not fit into its connection answers it by one that does (RFC 9293 section 3.10.7.4), and that is all that is
//! needed here:
//!
//! 1. The backend is asked, in the client's name. Whatever it says shows that it is there, and is no news to the client.
//! 2. Where nothing comes back the connection is given up, and the client is asked, in the VIP's name. Its answer has the numbers
//!    by which the programs reset it (`reset_backend_gone`).
//!
//! [`Leftovers`] decides, [`Sender`](sender::Sender) sends. Nothing is guaranteed: a firewall on the way may drop what does not
//! fit. Then the client hears of it when it sends something, as everybody did before.

mod segment;
pub(crate) mod sender;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use evenkeel_loader::{Connection, Leftover};
use evenkeel_maps::FrontendKey;

/// Between two questions, and at least between two looks.
const ROUND: Duration = Duration::from_millis(250);
/// Rounds without a word after which a backend is not there.
const ROUNDS: u32 = 3;
/// Connections of one backend that it is asked about in a round. One answer is enough.
const ASKED_AT_ONCE: usize = 32;
/// How long one that is there is left alone: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));
/// How often a client is told, and with what time in between: hosts answer what does not fit twice a second at most
/// (`net.ipv4.tcp_invalid_ratelimit`).
const TOLD: (u32, Duration) = (3, Duration::from_secs(1));
/// Clients told in a round, so that other changes do not wait.
const TOLD_AT_ONCE: usize = 4096;

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this backend whether it is there.
    Ask(Connection, SocketAddr),
    /// It is not, or has forgotten the connection: give it up, and have the client ask.
    GiveUp(Connection),
}

/// What is known of backends that are no longer endpoints.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    backends: HashMap<(FrontendKey, SocketAddr), Backend>,
    /// What [`DataPath::burials`](evenkeel_loader::DataPath::burials) said at the last look.
    burials: u64,
    /// When that was.
    looked: Option<Instant>,
}

/// Client and VIP.
type Ends = (SocketAddr, SocketAddr);

#[derive(Debug)]
struct Backend {
    packets_out: u64,
    /// Rounds in which it was asked since it last said something.
    rounds: u32,
    /// When to look again.
    due: Instant,
    pause: Duration,
    /// What it was asked about.
    asked: HashSet<Ends>,
    /// It has said something since it was asked first.
    heard: bool,
    /// How often each client was told, and when it was last.
    told: HashMap<Ends, (u32, Instant)>,
}

impl Leftovers {
    /// When to look next, as long as so many backends have ceased to be endpoints; `None`: when another one does.
    pub(crate) fn next_due(&self, burials: u64, now: Instant) -> Option<Instant> {
        let again = self.backends.values().map(|backend| backend.due).min();
        let new = (burials != self.burials).then(|| self.looked.map_or(now, |looked| looked + ROUND));
        again.into_iter().chain(new).min()
    }

    /// What is to be done now, by the connections that there are.
    pub(crate) fn look(&mut self, leftovers: &[Leftover], burials: u64, now: Instant) -> Vec<Step> {
        (self.burials, self.looked) = (burials, Some(now));
        let present: HashSet<_> = leftovers.iter().map(|leftover| (leftover.frontend, leftover.address)).collect();
        self.backends.retain(|key, _| present.contains(key));
        let mut steps = Vec::new();
        let mut room = TOLD_AT_ONCE;
        for leftover in leftovers {
            let backend = self
                .backends
                .entry((leftover.frontend, leftover.address))
                .or_insert_with(|| Backend::new(leftover.packets_out, now));
            backend.look(leftover, now, &mut room, &mut steps);
        }
        steps
    }
}

impl Backend {
    fn new(packets_out: u64, now: Instant) -> Self {
        Self {
            packets_out,
            rounds: 0,
            due: now,
            pause: PAUSE.0,
            asked: HashSet::new(),
            heard: false,
            told: HashMap::new(),
        }
    }

    fn look(&mut self, leftover: &Leftover, now: Instant, room: &mut usize, steps: &mut Vec<Step>) {
        if leftover.packets_out != self.packets_out {
            self.packets_out = leftover.packets_out;
            self.heard |= !self.asked.is_empty();
            self.rounds = 0;
            self.due = now + self.pause;
            self.pause = (2 * self.pause).min(PAUSE.1);
        }
        let is_gone = self.rounds == ROUNDS && self.due <= now;
        // Who resets what it was asked about has come back without it, or has that address now. Where nobody has said anything it
        // was the client, who need not be told.
        let is_over = |connection: &&Connection| match connection.reset {
            true => self.heard && self.asked.contains(&ends(connection)),
            false => is_gone,
        };
        let over: Vec<Connection> = leftover.connections.iter().filter(is_over).copied().collect();
        let mut all_are_told = true;
        for connection in over {
            all_are_told &= self.tell(connection, now, room, steps);
        }
        if self.due > now {
            return;
        }
        let open: Vec<&Connection> = leftover.connections.iter().filter(|connection| !connection.reset).collect();
        let goes_on = if is_gone { !all_are_told } else { !open.is_empty() };
        self.due = now + if goes_on { ROUND } else { PAUSE.1 };
        if !is_gone {
            self.ask(&open, leftover.address, steps);
        }
    }

    fn ask(&mut self, open: &[&Connection], address: SocketAddr, steps: &mut Vec<Step>) {
        if open.is_empty() {
            return;
        }
        let first = self.rounds as usize * ASKED_AT_ONCE % open.len();
        for connection in open.iter().cycle().skip(first).take(ASKED_AT_ONCE.min(open.len())) {
            self.asked.insert(ends(connection));
            steps.push(Step::Ask(**connection, address));
        }
        self.rounds += 1;
    }

    /// Has a client told if that is due; whether it has been told as often as it will be.
    fn tell(&mut self, connection: Connection, now: Instant, room: &mut usize, steps: &mut Vec<Step>) -> bool {
        let (times, last) = self.told.get(&ends(&connection)).copied().unwrap_or((0, now));
        if times == TOLD.0 || *room == 0 || (times > 0 && now < last + TOLD.1) {
            return times == TOLD.0;
        }
        *room -= 1;
        self.told.insert(ends(&connection), (times + 1, now));
        steps.push(Step::GiveUp(connection));
        times + 1 == TOLD.0
    }
}

fn ends(connection: &Connection) -> Ends {
    (connection.client, connection.vip)
}

#[cfg(test)]
mod tests;
