//! One HTTP/1.1 response, read piece by piece as it arrives (RFC 9112).

use crate::{cause::Cause, pattern, record::Failure, server::SERVER_HEADER};

/// Longest head and longest trailer section.
const MAX_HEAD: usize = 64 << 10;
/// Most headers.
const MAX_HEADERS: usize = 96;
/// Longest line with the size of a chunk.
const MAX_CHUNK_LINE: usize = 256;

/// A response as far as it has arrived.
#[derive(Debug)]
pub(crate) struct Response {
    state: State,
    /// The start of a head or line that is not complete.
    partial: Vec<u8>,
    status: u16,
    keep_alive: bool,
    /// Bytes of the body so far.
    received: u64,
    /// The length of the body that the path asks our own server for.
    wanted: Option<u64>,
    /// The body is that of our own server: [`pattern`].
    patterned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of the body are missing.
    Length(u64),
    ChunkSize,
    /// So many bytes of the chunk are missing.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// How far a piece has taken a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes of the piece that belong to the response.
    pub(crate) consumed: usize,
    pub(crate) done: bool,
}

impl Response {
    /// The answer to a GET for a path that asks our own server for `wanted` bytes, if it does.
    pub(crate) const fn new(wanted: Option<u64>) -> Self {
        Self {
            state: State::Head,
            partial: Vec::new(),
            status: 0,
            keep_alive: true,
            received: 0,
            wanted,
            patterned: false,
        }
    }

    /// Forgets the response, to read the next.
    pub(crate) fn reset(&mut self) {
        self.partial.clear();
        (self.state, self.status, self.keep_alive, self.received, self.patterned) = (State::Head, 0, true, 0, false);
    }

    /// The status; `None` before the head is complete.
    pub(crate) fn status(&self) -> Option<u16> {
        (self.status != 0).then_some(self.status)
    }

    /// Whether the connection may carry another request after this response.
    pub(crate) const fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Reads the next piece. `server` is told the name the server gives itself.
    ///
    /// # Errors
    ///
    /// [`Cause::WrongBody`] for what is no response, or not the body expected; [`Cause::TruncatedBody`] for a complete
    /// one that is shorter than expected.
    pub(crate) fn feed(&mut self, piece: &[u8], server: &mut impl FnMut(&[u8])) -> Result<Progress, Failure> {
        let mut rest = piece;
        while !rest.is_empty() && self.state != State::Done {
            rest = match self.state {
                State::Head => self.head(rest, server)?,
                State::Length(missing) => {
                    let rest = self.body(rest, missing)?;
                    if self.state == State::Length(0) {
                        self.complete()?;
                    }
                    rest
                }
                State::ChunkSize => self.chunk_size(rest)?,
                State::Chunk(missing) => {
                    let rest = self.body(rest, missing)?;
                    if self.state == State::Chunk(0) {
                        self.state = State::ChunkEnd;
                    }
                    rest
                }
                State::ChunkEnd => match self.line(rest, 2)? {
                    (Some(line), _) if !line.is_empty() => {
                        return Err(Failure::new(Cause::WrongBody, "a chunk is longer than announced"));
                    }
                    (Some(_), rest) => {
                        self.state = State::ChunkSize;
                        rest
                    }
                    (None, rest) => rest,
                },
                State::Trailers => match self.line(rest, MAX_HEAD)? {
                    (Some(line), rest) => {
                        if line.is_empty() {
                            self.complete()?;
                        }
                        rest
                    }
                    (None, rest) => rest,
                },
                State::UntilClose => self.body(rest, u64::MAX)?,
                State::Done => break,
            };
        }
        Ok(Progress { consumed: piece.len() - rest.len(), done: self.state == State::Done })
    }

    /// The peer has closed the connection: right only where that is what ends the response.
    ///
    /// # Errors
    ///
    /// [`Cause::EarlyEof`] before a complete head, [`Cause::TruncatedBody`] after it.
    pub(crate) fn end(&mut self) -> Result<(), Failure> {
        match self.state {
            State::UntilClose => self.complete(),
            State::Done => Ok(()),
            State::Head => Err(Cause::EarlyEof.into()),
            _ => Err(Failure::new(Cause::TruncatedBody, format!("the body ended after {} bytes", self.received))),
        }
    }

    fn head<'a>(&mut self, piece: &'a [u8], server: &mut impl FnMut(&[u8])) -> Result<&'a [u8], Failure> {
        let before = self.partial.len();
        if before > 0 {
            self.partial.extend_from_slice(piece);
        }
        let buffered = std::mem::take(&mut self.partial);
        let length = self.parse_head(if before > 0 { &buffered } else { piece }, server)?;
        match length {
            // The head's end is in this piece, or it would have been found before.
            Some(length) => Ok(&piece[length.saturating_sub(before).min(piece.len())..]),
            None => {
                self.partial = if before > 0 { buffered } else { piece.to_owned() };
                if self.partial.len() > MAX_HEAD {
                    return Err(Failure::new(Cause::WrongBody, "the head of the response is too long"));
                }
                Ok(&[])
            }
        }
    }

    /// Reads a head; returns its length if it is complete.
    fn parse_head(&mut self, bytes: &[u8], server: &mut impl FnMut(&[u8])) -> Result<Option<usize>, Failure> {
        let wrong = |error: httparse::Error| Failure::new(Cause::WrongBody, format!("no HTTP response: {error}"));
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(bytes).map_err(wrong)? else { return Ok(None) };
        let status = response.code.unwrap_or(0);
        if (100..200).contains(&status) && status != 101 {
            // An interim response: the real one follows.
            return Ok(Some(length));
        }
        self.status = status;
        let mut content_length = None;
        let mut chunked = false;
        let mut keep = response.version == Some(1);
        for header in response.headers {
            // Comparing lengths first rejects most headers at once.
            match header.name.len() {
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    for token in header.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                        if token.eq_ignore_ascii_case(b"close") {
                            keep = false;
                        } else if token.eq_ignore_ascii_case(b"keep-alive") {
                            keep = true;
                        }
                    }
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    let value = decimal(header.value)
                        .ok_or_else(|| Failure::new(Cause::WrongBody, "content-length is no number"))?;
                    if content_length.replace(value).is_some_and(|other| other != value) {
                        return Err(Failure::new(Cause::WrongBody, "two different content-lengths"));
                    }
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    let last = header.value.rsplit(|&byte| byte == b',').next().unwrap_or_default();
                    chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
                }
                length if length == SERVER_HEADER.len() && header.name.eq_ignore_ascii_case(SERVER_HEADER) => {
                    server(header.value);
                    // Only our own server is known to answer this path with the pattern.
                    self.patterned = self.wanted.is_some() && status == 200;
                }
                _ => {}
            }
        }
        self.keep_alive = keep;
        self.state = match (status, chunked, content_length) {
            (204 | 304, ..) => State::Length(0),
            (_, true, _) => State::ChunkSize,
            (_, false, Some(length)) => State::Length(length),
            (_, false, None) => {
                self.keep_alive = false;
                State::UntilClose
            }
        };
        if self.state == State::Length(0) {
            self.complete()?;
        }
        Ok(Some(length))
    }

    /// Takes up to `missing` bytes of the body.
    fn body<'a>(&mut self, piece: &'a [u8], missing: u64) -> Result<&'a [u8], Failure> {
        let length = usize::try_from(missing).unwrap_or(usize::MAX).min(piece.len());
        let (body, rest) = piece.split_at(length);
        if self.patterned && !pattern::matches(self.received, body) {
            return Err(Failure::new(Cause::WrongBody, "the body has other bytes than the server's pattern"));
        }
        self.received += length as u64;
        let missing = missing - length as u64;
        match &mut self.state {
            State::Length(left) | State::Chunk(left) => *left = missing,
            _ => {}
        }
        Ok(rest)
    }

    fn chunk_size<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], Failure> {
        let (Some(line), rest) = self.line(piece, MAX_CHUNK_LINE)? else { return Ok(&[]) };
        // Extensions follow a semicolon.
        let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let size = hexadecimal(digits).ok_or_else(|| Failure::new(Cause::WrongBody, "a chunk's size is no number"))?;
        self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
        Ok(rest)
    }

    /// The next line without its end, if it is complete, and what follows.
    fn line<'a>(&mut self, piece: &'a [u8], longest: usize) -> Result<(Option<Vec<u8>>, &'a [u8]), Failure> {
        let (line, rest) = match piece.iter().position(|&byte| byte == b'\n') {
            Some(end) => (&piece[..=end], &piece[end + 1..]),
            None => (piece, &[][..]),
        };
        self.partial.extend_from_slice(line);
        if self.partial.len() > longest {
            return Err(Failure::new(Cause::WrongBody, "a line of the chunked body is too long"));
        }
        let Some(line) = self.partial.strip_suffix(b"\n") else { return Ok((None, rest)) };
        let line = line.strip_suffix(b"\r").unwrap_or(line).to_owned();
        self.partial.clear();
        Ok((Some(line), rest))
    }

    fn complete(&mut self) -> Result<(), Failure> {
        self.state = State::Done;
        match self.wanted {
            Some(wanted) if self.patterned && self.received < wanted => Err(Failure::new(
                Cause::TruncatedBody,
                format!("the body has {} bytes instead of {wanted}", self.received),
            )),
            Some(wanted) if self.patterned && self.received > wanted => {
                Err(Failure::new(Cause::WrongBody, format!("the body has more than {wanted} bytes")))
            }
            _ => Ok(()),
        }
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits.trim_ascii()).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that can be seen of a response read in pieces, and how much of the bytes it took.
    fn read(pieces: &[&[u8]], wanted: Option<u64>) -> (Result<bool, Cause>, Option<u16>, bool, u64, Vec<u8>, usize) {
        let mut response = Response::new(wanted);
        let (mut servers, mut consumed, mut result) = (Vec::new(), 0, Ok(false));
        for piece in pieces {
            match response.feed(piece, &mut |server| servers.extend_from_slice(server)) {
                Ok(progress) => {
                    consumed += progress.consumed;
                    result = Ok(progress.done);
                    if progress.done {
                        break;
                    }
                }
                Err(failure) => {
                    result = Err(failure.cause);
                    break;
                }
            }
        }
        (result, response.status(), response.keep_alive(), response.received, servers, consumed)
    }

    fn done(response: &str) -> (Option<u16>, bool, u64) {
        let (result, status, keep, received, _, consumed) = read(&[response.as_bytes()], None);
        assert_eq!((result, consumed), (Ok(true), response.len()), "{response}");
        (status, keep, received)
    }

    #[test]
    fn every_way_to_frame_a_body_is_understood() {
        assert_eq!(done("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), (Some(200), true, 3));
        assert_eq!(done("HTTP/1.1 204 No Content\r\n\r\n"), (Some(204), true, 0));
        assert_eq!(
            done(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\n"
            ),
            (Some(200), true, 19)
        );
        assert_eq!(
            done("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: x, Close\r\n\r\n"),
            (Some(503), false, 0)
        );
        assert_eq!(done("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n"), (Some(200), false, 0));
        assert_eq!(
            done("HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n"),
            (Some(200), true, 0)
        );

        let mut response = Response::new(None);
        let progress = response.feed(b"HTTP/1.1 200 OK\r\n\r\nabc", &mut |_| ()).unwrap();
        assert_eq!((progress.done, response.end(), response.keep_alive()), (false, Ok(()), false));
    }

    #[test]
    fn an_end_in_the_middle_is_named() {
        for (text, cause) in [
            ("", Cause::EarlyEof),
            ("HTTP/1.1 200 OK\r\n", Cause::EarlyEof),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", Cause::TruncatedBody),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", Cause::TruncatedBody),
        ] {
            let mut response = Response::new(None);
            response.feed(text.as_bytes(), &mut |_| ()).unwrap();
            assert_eq!(response.end().unwrap_err().cause, cause, "{text}");
        }
    }

    #[test]
    fn what_is_no_response_is_refused() {
        for text in [
            "220 mail.example ESMTP\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcdef\r\n",
        ] {
            assert_eq!(read(&[text.as_bytes()], None).0, Err(Cause::WrongBody), "{text}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(MAX_HEAD));
        assert_eq!(read(&[endless.as_bytes(), b"x"], None).0, Err(Cause::WrongBody));
    }

    #[test]
    fn the_pattern_is_checked_only_of_our_own_server() {
        let body: Vec<u8> = (0..5).map(pattern::byte_at).collect();
        let answer = |server: &str, length: usize, body: &[u8]| {
            [format!("HTTP/1.1 200 OK\r\n{server}content-length: {length}\r\n\r\n").as_bytes(), body].concat()
        };
        let ours = "x-evenkeel-server: alpha\r\n";
        let result = |bytes: &[u8]| read(&[bytes], Some(5)).0;
        assert_eq!(result(&answer(ours, 5, &body)), Ok(true));
        assert_eq!(result(&answer(ours, 5, b"12345")), Err(Cause::WrongBody));
        assert_eq!(result(&answer(ours, 3, &body[..3])), Err(Cause::TruncatedBody));
        assert_eq!(result(&answer("", 5, b"12345")), Ok(true));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&[&bytes], None);
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let _ = read(&[head, &bytes], None);
        }

        #[test]
        fn where_it_is_cut_makes_no_difference(
            cuts in prop::collection::vec(0_usize..200, 0..6),
            which in 0_usize..3,
        ) {
            let text = [
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Evenkeel-Server: a\r\nContent-Length: 5\r\n\r\nabcdeNEXT",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5;e\r\n01234\r\n0\r\nT: u\r\n\r\nNEXT",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
            ][which].as_bytes();
            let mut ends: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            ends.extend([0, text.len()]);
            ends.sort_unstable();
            let pieces: Vec<&[u8]> = ends.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let (whole, cut) = (read(&[text], None), read(&pieces, None));
            prop_assert_eq!(&whole.0, &cut.0);
            prop_assert_eq!(&whole.4, &cut.4);
            if whole.0.is_ok() {
                prop_assert_eq!(whole, cut);
            }
        }
    }
}
