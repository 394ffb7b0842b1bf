//! The readers of bytes that come from a network, for `fuzz/`. Not an interface.

use crate::{datagram, dns, http1, sequence};

/// A response is read the same in one piece and in two.
pub fn http_response(bytes: &[u8]) {
    let read = |pieces: &[&[u8]]| {
        let mut response = http1::Response::new(Some(5));
        let mut servers = Vec::new();
        for piece in pieces {
            match response.feed(piece, &mut |name| servers.extend_from_slice(name)) {
                Ok(progress) if progress.done => return (Ok(true), response.status(), servers),
                Ok(_) => {}
                Err(failure) => return (Err(failure.cause), response.status(), servers),
            }
        }
        (response.end().map(|()| false).map_err(|failure| failure.cause), response.status(), servers)
    };
    let (first, second) = bytes.split_at(bytes.len() / 2);
    assert_eq!(read(&[bytes]), read(&[first, second]));
}

/// A query that is understood is answered, and the answer understood.
pub fn dns_message(bytes: &[u8]) {
    if let Some(query) = dns::query(bytes) {
        let answer = query.answer(0, Some(&[192, 0, 2, 1]), b"alpha");
        assert!(dns::answer(&answer, &query.question).is_some());
        // Also as the answer to itself.
        dns::answer(bytes, &query.question);
    }
    if let Ok(question) = "www.example.com".parse() {
        dns::answer(bytes, &question);
    }
    if let Ok(question) = String::from_utf8_lossy(bytes).parse::<dns::Question>() {
        assert_eq!(dns::query(&question.query()).map(|query| query.question), Some(question));
    }
}

/// A reply that is understood names a request.
pub fn datagram(bytes: &[u8]) {
    if let Some(reply) = datagram::parse(bytes) {
        let request = datagram::request(reply.run, reply.sequence);
        assert_eq!(datagram::parse(request.as_bytes()).map(|again| again.sequence), Some(reply.sequence));
    }
}

/// Returned bytes make no more records than there is room for.
pub fn returned_bytes(bytes: &[u8]) {
    let mut returned = sequence::Returned::new(0);
    let (count, _) = returned.receive(bytes);
    assert!(count <= (bytes.len() / sequence::RECORD) as u64);
    returned.overdue();
}
