//! ICMP and ICMPv6 echo messages (RFC 792, RFC 4443 section 4).

/// Length of the message without its data.
const HEADER: usize = 8;

/// ICMP for which version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// ICMP.
    V4,
    /// ICMPv6.
    V6,
}

impl Version {
    fn request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    fn reply(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }
}

/// An echo message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Who asked.
    pub identifier: u16,
    /// Which request it answers.
    pub sequence: u16,
    /// What was sent comes back.
    pub data: &'a [u8],
}

/// An echo request. Its checksum is right for ICMP; that of ICMPv6 covers addresses too, and the kernel computes it.
pub fn request(version: Version, identifier: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + data.len());
    message.extend_from_slice(&[version.request(), 0, 0, 0]);
    message.extend_from_slice(&identifier.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(data);
    if version == Version::V4 {
        let sum = checksum(&message).to_be_bytes();
        message.splice(2..4, sum);
    }
    message
}

/// The echo reply in a message; `None` if it is another. The kernel has verified its checksum.
pub fn reply(version: Version, message: &[u8]) -> Option<Reply<'_>> {
    let (header, data) = message.split_first_chunk::<HEADER>()?;
    let [kind, code, _, _, id_high, id_low, sequence_high, sequence_low] = *header;
    (kind == version.reply() && code == 0).then_some(Reply {
        identifier: u16::from_be_bytes([id_high, id_low]),
        sequence: u16::from_be_bytes([sequence_high, sequence_low]),
        data,
    })
}

/// What follows the IPv4 header, which raw sockets deliver too; `None` if there is no whole one.
pub fn without_ip_header(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let length = usize::from(first & 0xf) * 4;
    (first >> 4 == 4 && length >= 20).then(|| packet.get(length..)).flatten()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let high = u32::from(*pair.first().unwrap_or(&0)) << 8;
        sum += high + u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum ^ 0xffff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_written_as_the_rfc_has_it() {
        let message = request(Version::V4, 0x1234, 1, b"abc");
        assert_eq!(message[..2], [8, 0]);
        assert_eq!(message[4..], [0x12, 0x34, 0, 1, b'a', b'b', b'c']);
        assert_eq!(checksum(&message), 0, "what is summed with its checksum is 0");
        assert_eq!(request(Version::V6, 0x1234, 1, b"")[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn only_replies_are_replies() {
        let reply_of = |kind: u8| [kind, 0, 0, 0, 0, 7, 0, 9, 1, 2];
        let expected = Reply { identifier: 7, sequence: 9, data: &[1, 2] };
        assert_eq!(reply(Version::V4, &reply_of(0)), Some(expected));
        assert_eq!(reply(Version::V6, &reply_of(129)), Some(expected));
        assert_eq!(reply(Version::V4, &reply_of(8)), None, "a request, as loopback shows it too");
        assert_eq!(reply(Version::V4, &reply_of(129)), None);
        assert_eq!(reply(Version::V4, &reply_of(0)[..7]), None);
        assert_eq!(reply(Version::V4, &[0, 1, 0, 0, 0, 7, 0, 9]), None, "a code");
    }

    #[test]
    fn ip_headers_are_skipped_with_their_options() {
        let mut packet = vec![0x46; 24];
        packet.push(9);
        assert_eq!(without_ip_header(&packet), Some(&[9][..]));
        assert_eq!(without_ip_header(&packet[..23]), None);
        assert_eq!(without_ip_header(&[0x44; 40]), None, "shorter than a header");
        assert_eq!(without_ip_header(&[0x66; 40]), None, "no IPv4");
        assert_eq!(without_ip_header(&[]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for version in [Version::V4, Version::V6] {
                reply(version, &bytes);
                without_ip_header(&bytes).map(|rest| reply(version, rest));
            }
        }

        #[test]
        fn what_is_sent_comes_back(id: u16, sequence: u16, data in prop::collection::vec(any::<u8>(), 0..64)) {
            for version in [Version::V4, Version::V6] {
                let mut message = request(version, id, sequence, &data);
                message[0] = version.reply();
                prop_assert_eq!(reply(version, &message), Some(Reply { identifier: id, sequence, data: &data }));
            }
        }
    }
}
