//! The little of DNS that a prober, its target and a health check need: one question, and what an answer's header says
//! (RFC 1035).
//!
//! Servers name themselves with the NSID option (RFC 5001), which the prober asks for with every query.

use std::{fmt, str::FromStr};

/// Length of a message's header.
const HEADER: usize = 12;
/// Longest name on the wire, and longest label (RFC 1035 section 3.1).
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;

/// Class IN.
const IN: u16 = 1;
/// The pseudo record of EDNS (RFC 6891).
const OPT: u16 = 41;
/// The option with a name server's identity (RFC 5001).
const NSID: u16 = 3;
/// The size of answers over UDP, in bytes, that the prober takes: what passes any path unfragmented (DNS flag day 2020).
pub const UDP_SIZE: u16 = 1232;

/// Flags of the header's third and fourth byte.
const RESPONSE: u16 = 1 << 15;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;

/// Record types known by name.
const TYPES: [(&str, u16); 10] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("HTTPS", 65),
];

/// The type of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

impl RecordType {
    /// An IPv4 address.
    pub const A: Self = Self(1);
    /// Text.
    pub const TXT: Self = Self(16);
    /// An IPv6 address.
    pub const AAAA: Self = Self(28);
}

/// A type by name, in any case, or `TYPE123` (RFC 3597 section 5).
impl FromStr for RecordType {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let known = TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|&(_, value)| value);
        let number =
            || text.get(..4).filter(|start| start.eq_ignore_ascii_case("TYPE")).and_then(|_| text[4..].parse().ok());
        known.or_else(number).map(Self).ok_or_else(|| QuestionError::Type(text.to_owned()))
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TYPES.iter().find(|&&(_, value)| value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

/// What is asked: a name and a type, in class IN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question {
    /// Labels with their lengths, ending with the root's.
    name: Vec<u8>,
    /// The type of the records asked for.
    pub record_type: RecordType,
}

/// Why a question was refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuestionError {
    /// No name, or one too long, or with an empty or overlong label.
    #[error("a name has labels of 1 to 63 letters, digits, `-` and `_`, separated by dots, 253 characters at most")]
    Name,
    /// A type that is neither known by name nor of the form `TYPE123`.
    #[error("`{0}` is not a record type, such as A, AAAA, TXT, SRV or TYPE65")]
    Type(String),
    /// Something other than a type after the question mark.
    #[error("`{0}` is not of the form type=TYPE")]
    Option(String),
}

/// `NAME[?type=TYPE]`
impl FromStr for Question {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let (name, option) = match text.split_once('?') {
            Some((name, option)) => (name, Some(option)),
            None => (text, None),
        };
        let record_type = match option {
            None => RecordType::A,
            Some(option) => {
                option.strip_prefix("type=").ok_or_else(|| QuestionError::Option(option.to_owned()))?.parse()?
            }
        };
        Self::new(name, record_type)
    }
}

/// Labels with their lengths; `.` is the root.
fn encode_name(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_suffix('.').filter(|rest| !rest.is_empty()).unwrap_or(text);
    let mut name = Vec::with_capacity(text.len() + 2);
    if text != "." {
        for label in text.split('.') {
            let fits = (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            if !fits {
                return None;
            }
            name.push(u8::try_from(label.len()).ok()?);
            name.extend_from_slice(label.as_bytes());
        }
    }
    name.push(0);
    (name.len() <= MAX_NAME).then_some(name)
}

/// `NAME?type=TYPE`
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}?type={}", self.name(), self.record_type)
    }
}

impl Question {
    /// The records of this type at `name`, with or without the dot at its end; `.` is the root.
    ///
    /// # Errors
    /// What is no name.
    pub fn new(name: &str, record_type: RecordType) -> Result<Self, QuestionError> {
        Ok(Self { name: encode_name(name).ok_or(QuestionError::Name)?, record_type })
    }

    /// The name, without the dot at its end; `.` for the root.
    pub fn name(&self) -> String {
        let mut text = String::with_capacity(self.name.len());
        let mut rest = &self.name[..];
        while let [length @ 1..=u8::MAX, tail @ ..] = rest {
            let (label, tail) = tail.split_at(usize::from(*length).min(tail.len()));
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(&String::from_utf8_lossy(label));
            rest = tail;
        }
        if text.is_empty() { ".".to_owned() } else { text }
    }

    /// A query with this identifier and recursion desired, without extensions: what every server understands.
    pub fn plain_query(&self, id: u16) -> Vec<u8> {
        let mut message = header(id, RECURSION_DESIRED, 1, 0, 0);
        self.append(&mut message);
        message
    }

    /// A query with a placeholder for its identifier in the first two bytes, recursion desired, and a request for the
    /// server's identity.
    pub fn query(&self) -> Vec<u8> {
        let mut message = header(0, RECURSION_DESIRED, 1, 0, 1);
        self.append(&mut message);
        append_opt(&mut message, &[(NSID, &[])]);
        message
    }

    fn append(&self, message: &mut Vec<u8>) {
        message.extend_from_slice(&self.name);
        message.extend_from_slice(&self.record_type.0.to_be_bytes());
        message.extend_from_slice(&IN.to_be_bytes());
    }
}

fn header(id: u16, flags: u16, questions: u16, answers: u16, additional: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(128);
    for field in [id, flags, questions, answers, 0, additional] {
        message.extend_from_slice(&field.to_be_bytes());
    }
    message
}

fn append_opt(message: &mut Vec<u8>, options: &[(u16, &[u8])]) {
    message.push(0);
    message.extend_from_slice(&OPT.to_be_bytes());
    message.extend_from_slice(&UDP_SIZE.to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    let length: usize = options.iter().map(|(_, value)| 4 + value.len()).sum();
    message.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    for (code, value) in options {
        message.extend_from_slice(&code.to_be_bytes());
        message.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        message.extend_from_slice(value);
    }
}

/// What is read of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The query's identifier.
    pub id: u16,
    /// How it went: 0 is no error, 3 no such name (RFC 1035 section 4.1.1).
    pub rcode: u8,
    /// There is more than fits a datagram.
    pub truncated: bool,
    /// The name the server gave itself, of the NSID option.
    pub server: Option<&'a [u8]>,
}

/// The identifier of a message that is long enough to have one.
pub fn id(message: &[u8]) -> Option<u16> {
    field(message, 0)
}

fn field(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Reads an answer to `question`. `None` if it is none: no response, another question, or malformed up to where the
/// server's name would be.
pub fn answer<'a>(message: &'a [u8], question: &Question) -> Option<Answer<'a>> {
    let flags = field(message, 2)?;
    let rcode = u8::try_from(flags & 0xf).ok()?;
    if flags & RESPONSE == 0 {
        return None;
    }
    let mut answer = Answer { id: id(message)?, rcode, truncated: flags & TRUNCATED != 0, server: None };
    match field(message, 4)? {
        // A server that could not read the question may leave it out.
        0 if rcode != 0 => return Some(answer),
        1 => {}
        _ => return None,
    }
    let end = HEADER + question.name.len();
    // Names compare without regard to case (RFC 4343); the lengths among them are no letters.
    if !message.get(HEADER..end)?.eq_ignore_ascii_case(&question.name)
        || field(message, end)? != question.record_type.0
        || field(message, end + 2)? != IN
    {
        return None;
    }
    let records = [6, 8, 10].into_iter().try_fold(0, |sum, at| Some(sum + u32::from(field(message, at)?)))?;
    let mut at = end + 4;
    for _ in 0..records {
        let Some(record) = record(message, at) else {
            // What follows the cut of a truncated answer is missing by right.
            return answer.truncated.then_some(answer);
        };
        if record.record_type == OPT {
            answer.server = options(record.data).find(|&(code, _)| code == NSID).map(|(_, value)| value);
        }
        at = record.end;
    }
    Some(answer)
}

struct Record<'a> {
    record_type: u16,
    data: &'a [u8],
    end: usize,
}

fn record(message: &[u8], at: usize) -> Option<Record<'_>> {
    let fixed = skip_name(message, at)?;
    let length = usize::from(field(message, fixed + 8)?);
    let end = fixed + 10 + length;
    Some(Record { record_type: field(message, fixed)?, data: message.get(fixed + 10..end)?, end })
}

/// The position after a name, which may end with a pointer. Pointers are not followed.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return message.get(at + 1).map(|_| at + 2),
            length if usize::from(length) <= MAX_LABEL => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// The options of an OPT record, up to the first malformed one.
fn options(mut data: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (code, length) = (field(data, 0)?, usize::from(field(data, 2)?));
        let value = data.get(4..4 + length)?;
        data = &data[4 + length..];
        Some((code, value))
    })
}

/// A query as the target server reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    id: u16,
    recursion_desired: bool,
    /// What is asked.
    pub question: Question,
    /// The client asks for the server's name.
    wants_server: bool,
}

/// Reads a query with one question. `None` if it is none.
pub fn query(message: &[u8]) -> Option<Query> {
    let flags = field(message, 2)?;
    // Opcode 0 is a standard query.
    if flags & RESPONSE != 0 || flags >> 11 & 0xf != 0 || field(message, 4)? != 1 {
        return None;
    }
    let end = skip_name(message, HEADER)?;
    let name = message.get(HEADER..end)?;
    // Nothing comes before the question that a pointer could point to.
    if name.len() > MAX_NAME || name.last() != Some(&0) || field(message, end + 2)? != IN {
        return None;
    }
    let question = Question { name: name.to_owned(), record_type: RecordType(field(message, end)?) };
    let records = [6, 8, 10].into_iter().try_fold(0, |sum, at| Some(sum + u32::from(field(message, at)?)))?;
    let (mut at, mut wants_server) = (end + 4, false);
    for _ in 0..records {
        let record = record(message, at)?;
        wants_server |= record.record_type == OPT && options(record.data).any(|(code, _)| code == NSID);
        at = record.end;
    }
    Some(Query { id: id(message)?, recursion_desired: flags & RECURSION_DESIRED != 0, question, wants_server })
}

impl Query {
    /// An answer with these record data, or with none.
    pub fn answer(&self, rcode: u8, data: Option<&[u8]>, server: &[u8]) -> Vec<u8> {
        /// Points at the question's name.
        const NAME: [u8; 2] = [0xc0, 0x0c];
        let desired = if self.recursion_desired { RECURSION_DESIRED } else { 0 };
        let flags = RESPONSE | AUTHORITATIVE | desired | u16::from(rcode & 0xf);
        let mut message = header(self.id, flags, 1, u16::from(data.is_some()), u16::from(self.wants_server));
        self.question.append(&mut message);
        if let Some(data) = data {
            message.extend_from_slice(&NAME);
            message.extend_from_slice(&self.question.record_type.0.to_be_bytes());
            message.extend_from_slice(&IN.to_be_bytes());
            // Not to be cached: each query is to reach a server.
            message.extend_from_slice(&[0; 4]);
            message.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
            message.extend_from_slice(data);
        }
        if self.wants_server {
            append_opt(&mut message, &[(NSID, server)]);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn question(text: &str) -> Question {
        text.parse().unwrap()
    }

    #[test]
    fn questions_are_parsed_and_shown() {
        for (text, shown) in [
            ("www.example.com", "www.example.com?type=A"),
            ("www.example.com.?type=aaaa", "www.example.com?type=AAAA"),
            ("_http._tcp.example?type=SRV", "_http._tcp.example?type=SRV"),
            (".?type=TYPE2", ".?type=NS"),
            ("a?type=type257", "a?type=TYPE257"),
        ] {
            assert_eq!(question(text).to_string(), shown);
        }
    }

    #[test]
    fn bad_questions_name_their_fault() {
        let error = |text: &str| text.parse::<Question>().unwrap_err();
        for text in ["", "a..b", "a b", &"x".repeat(64), &["x".repeat(60).as_str(); 5].join("."), "é"] {
            assert_eq!(error(text), QuestionError::Name, "{text}");
        }
        assert!(matches!(error("a?type=NONE"), QuestionError::Type(_)));
        assert!(matches!(error("a?type=TYPE70000"), QuestionError::Type(_)));
        assert!(matches!(error("a?class=CH"), QuestionError::Option(_)));
    }

    #[test]
    fn a_query_is_answered_and_the_answer_understood() {
        let question = question("www.Example.com");
        let asked = query(&question.query()).unwrap();
        assert_eq!((&asked.question, asked.wants_server), (&question, true));
        let message = asked.answer(0, Some(&[192, 0, 2, 1]), b"alpha");
        let expected = Answer { id: 0, rcode: 0, truncated: false, server: Some(b"alpha") };
        assert_eq!(answer(&message, &question), Some(expected));
        let failed = asked.answer(2, None, b"alpha");
        assert_eq!(answer(&failed, &question).map(|answer| answer.rcode), Some(2));
    }

    #[test]
    fn other_messages_are_no_answers() {
        let asked = question("www.example.com");
        let answered = query(&asked.query()).unwrap().answer(0, Some(&[192, 0, 2, 1]), b"alpha");
        assert_eq!(answer(&answered, &question("www.example.org")), None);
        assert_eq!(answer(&answered, &question("www.example.com?type=AAAA")), None);
        assert_eq!(answer(&asked.query(), &asked), None, "a query");
        assert_eq!(answer(&answered[..answered.len() - 1], &asked), None, "cut");
        let mut truncated = answered[..40].to_owned();
        truncated[2] |= 2;
        assert!(answer(&truncated, &asked).unwrap().truncated);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let asked = question("a.b");
            answer(&bytes, &asked);
            query(&bytes);
            // The same after a header and question that are right.
            let mut message = query(&asked.query()).unwrap().answer(0, None, b"x");
            message[7] = 2;
            message.truncate(HEADER + asked.name.len() + 4);
            message.extend_from_slice(&bytes);
            answer(&message, &asked);
            message[2] &= 0x7f;
            query(&message);
        }

        #[test]
        fn what_a_server_reads_is_what_was_asked(name in "[a-z0-9_-]{1,20}(\\.[a-z0-9_-]{1,20}){0,5}", number in any::<u16>()) {
            let asked = question(&format!("{name}?type=TYPE{number}"));
            prop_assert_eq!(query(&asked.query()).unwrap().question, asked);
        }
    }
}
