//! What backends answer health checks: nothing of it makes them panic, and only what was asked for is an answer.
#![no_main]

use evenkeel_health::echo::{self, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for version in [Version::V4, Version::V6] {
        for message in [Some(bytes), echo::without_ip_header(bytes)].into_iter().flatten() {
            if let Some(reply) = echo::reply(version, message) {
                let request = echo::request(version, reply.identifier, reply.sequence, reply.data);
                assert_eq!(request[4..], message[4..]);
            }
        }
    }
    if let Ok(question) = evenkeel_dns::Question::new("www.example.com", evenkeel_dns::RecordType::A) {
        let query = question.plain_query(0x1234);
        assert_eq!(evenkeel_dns::query(&query).map(|query| query.question), Some(question.clone()));
        evenkeel_dns::answer(bytes, &question);
        // After a header and question that are right.
        let mut message = query;
        message[2] |= 0x80;
        message[7] = 2;
        message.extend_from_slice(bytes);
        evenkeel_dns::answer(&message, &question);
    }
});
