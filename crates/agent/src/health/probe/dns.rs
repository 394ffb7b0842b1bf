//! DNS queries, which are to be answered without an error.

use std::{io, net::SocketAddr};

use evenkeel_dns::Question;
use evenkeel_health::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Transport, Trouble, nonce, stream, udp};

/// The error codes servers answer with, by number from 1 (RFC 1035 section 4.1.1).
const CODES: [&str; 5] = ["FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

/// Asks by datagram. That the answer is cut short makes no difference: the server is there.
pub(super) async fn over_udp(address: SocketAddr, question: &Question) -> Result<(), Trouble> {
    let id = id();
    let exchange = async {
        let socket = udp::socket(address).await?;
        socket.send(&question.plain_query(id)).await?;
        let mut message = vec![0; usize::from(evenkeel_dns::UDP_SIZE)];
        loop {
            let length = socket.recv(&mut message).await?;
            let answer = message.get(..length).unwrap_or_default();
            // Another identifier than the query's is no answer to it, and perhaps forged.
            if evenkeel_dns::id(answer) == Some(id) {
                return io::Result::Ok(judge(answer, question));
            }
        }
    };
    exchange.await.map_err(|error| Transport::Udp.trouble(&error))?
}

/// Asks over a connection, where each message comes after its length (RFC 1035 section 4.2.2).
pub(super) async fn over_tcp(address: SocketAddr, question: &Question) -> Result<(), Trouble> {
    let id = id();
    let query = question.plain_query(id);
    let mut stream = stream::connect(address).await?;
    let exchange = async {
        let length = u16::try_from(query.len()).map_err(io::Error::other)?;
        // In one segment: some servers read no further than the first.
        stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await?;
        let mut message = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut message).await?;
        io::Result::Ok(message)
    };
    let message = exchange.await.map_err(|error| Transport::Tcp.trouble(&error))?;
    if evenkeel_dns::id(&message) != Some(id) {
        return Err(Trouble::failed(Reason::DnsInvalid, "the answer is to another query"));
    }
    judge(&message, question)
}

fn judge(message: &[u8], question: &Question) -> Result<(), Trouble> {
    let Some(answer) = evenkeel_dns::answer(message, question) else {
        return Err(Trouble::failed(Reason::DnsInvalid, "what came back is no answer to the query"));
    };
    if answer.rcode == 0 {
        return Ok(());
    }
    let name = CODES.get(usize::from(answer.rcode) - 1).copied().unwrap_or("an error");
    Err(Trouble::failed(Reason::DnsRcode, format!("{} was answered with {name} ({})", question, answer.rcode)))
}

fn id() -> u16 {
    let [high, low, ..] = nonce().to_be_bytes();
    u16::from_be_bytes([high, low])
}
