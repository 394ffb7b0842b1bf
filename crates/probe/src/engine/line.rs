//! A line with which the server names itself, and a line that it echoes.

use std::os::fd::OwnedFd;

use super::{
    Active, Context,
    stream::{News, read_all, send_rest},
    tcp::{Step, meet},
};
use crate::{
    cause::Cause,
    config::Lane,
    record::{Failure, ServerId},
};

/// Longest line read; a server that sends none must not fill the memory.
const MAX_LINE: usize = 1024;
/// What has come and gone on one connection.
#[derive(Default)]
pub(super) struct Line {
    received: Vec<u8>,
    /// The line to be echoed, once the server has named itself.
    sent: Option<Vec<u8>>,
    written: usize,
}

impl Line {
    /// Carries on; [`Step::Idle`] means that all lines have come.
    #[expect(clippy::too_many_arguments, reason = "the fields of one connection, borrowed apart")]
    pub(super) fn advance(
        &mut self,
        echo: bool,
        socket: &OwnedFd,
        context: &mut Context,
        server: &mut Option<ServerId>,
        active: &mut Active,
        lane: &Lane,
        news: News,
    ) -> Result<Step, Failure> {
        if let Some(sent) = &self.sent
            && !send_rest(socket, sent, &mut self.written, active)?
        {
            return Ok(Step::Wait);
        }
        if !news.readable {
            return Ok(Step::Wait);
        }
        let mut done = false;
        let eof = read_all(socket, context, news, active, |piece, context, active| {
            self.received.extend_from_slice(piece);
            done = self.carry_on(echo, socket, context, server, active, lane)?;
            Ok(done)
        })?;
        match (done, eof) {
            (true, _) => Ok(Step::Idle),
            (false, true) => Err(Cause::EarlyEof.into()),
            (false, false) => Ok(Step::Wait),
        }
    }

    /// Whether all lines have come.
    fn carry_on(
        &mut self,
        echo: bool,
        socket: &OwnedFd,
        context: &Context,
        server: &mut Option<ServerId>,
        active: &mut Active,
        lane: &Lane,
    ) -> Result<bool, Failure> {
        let Some(end) = self.received.iter().position(|&byte| byte == b'\n') else {
            if self.received.len() >= MAX_LINE {
                return Err(Failure::new(Cause::WrongBody, "the line is too long"));
            }
            return Ok(false);
        };
        let Some(sent) = &self.sent else {
            meet(server, context.server(active.lane, &self.received[..end]), active, lane)?;
            if !echo {
                return Ok(true);
            }
            self.received.drain(..=end);
            let sent = format!("evenkeel {}\n", active.sequence).into_bytes();
            send_rest(socket, &sent, &mut self.written, active)?;
            self.sent = Some(sent);
            if self.received.is_empty() {
                return Ok(false);
            }
            return self.carry_on(echo, socket, context, server, active, lane);
        };
        if self.received[..=end] == sent[..] {
            Ok(true)
        } else {
            Err(Failure::new(Cause::WrongBody, "another line came back than was sent"))
        }
    }
}
