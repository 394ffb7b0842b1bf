//! The datagrams of the UDP lanes: the run's identifier and a sequence number, which the reply repeats.

use std::str;

const PREFIX: &str = "evenkeel";

pub(crate) fn request(run: u64, sequence: u64) -> String {
    format!("{PREFIX} {run:016x} {sequence}")
}

/// A reply is the request, after the server's name and a space if it gives one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    pub(crate) server: &'a str,
    pub(crate) run: u64,
    pub(crate) sequence: u64,
}

pub(crate) fn parse(reply: &[u8]) -> Option<Reply<'_>> {
    let mut words = str::from_utf8(reply).ok()?.rsplitn(4, ' ');
    let sequence = words.next()?.parse().ok()?;
    let run = u64::from_str_radix(words.next()?, 16).ok()?;
    (words.next()? == PREFIX).then_some(())?;
    Some(Reply { server: words.next().unwrap_or_default(), run, sequence })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replies_with_and_without_a_name_are_parsed() {
        let text = request(0xabc, 7);
        assert_eq!(parse(text.as_bytes()), Some(Reply { server: "", run: 0xabc, sequence: 7 }));
        let named = format!("web 1 {text}");
        assert_eq!(parse(named.as_bytes()), Some(Reply { server: "web 1", run: 0xabc, sequence: 7 }));
    }

    #[test]
    fn other_replies_are_not() {
        for text in ["", "7", "evenkeel 0 ", "evenkeel 0 x", "evenkee 0 7", "evenkeel g 7", "\u{fffd}"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(&[0xff, 0xfe]), None);
    }

    proptest! {
        #[test]
        fn every_request_is_read_back(server in "[!-~]{1,64}", run in any::<u64>(), sequence in any::<u64>()) {
            let reply = format!("{server} {}", request(run, sequence));
            prop_assert_eq!(parse(reply.as_bytes()), Some(Reply { server: &server, run, sequence }));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            parse(&bytes);
        }
    }
}
