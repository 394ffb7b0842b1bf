//! From text to layers.

use crate::{
    frame::{
        Arp, Ethernet, Extension, Fragment, Frame, Icmp, Ipv4, Ipv6, Layer, NdOption, Neighbor, Override, Sctp, Tcp,
        TcpOption, Udp, Vlan, WRONG,
    },
    icmp::{self, Rest},
    names::Names,
    render::{ETHER_TYPES, PADDING, PROTOCOLS, TCP_FLAGS, counting},
};

/// Why a text is no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// No layer is called that.
    #[error(
        "there is no layer `{0}`: eth, vlan, qinq, arp, ip, ip6, hopopts, dstopts, routing, frag, tcp, udp, icmp, icmp6, \
         sctp, \"text\", 0x…, bytes, zeros, trailer, cut, or a packet in brackets"
    )]
    Layer(String),
    /// A layer does not know the word.
    #[error("`{word}` says nothing in `{layer}`")]
    Word {
        /// The layer.
        layer: String,
        /// The word.
        word: String,
    },
    /// Something must follow.
    #[error("`{layer}` lacks {what}")]
    Missing {
        /// The layer.
        layer: String,
        /// What should be there.
        what: &'static str,
    },
    /// A value of another form.
    #[error("`{word}` in `{layer}` is not {what}")]
    Value {
        /// The layer.
        layer: String,
        /// The word.
        word: String,
        /// What should be there.
        what: &'static str,
    },
    /// A quotation mark or a bracket without its other half.
    #[error("`{0}` is not closed")]
    Open(char),
    /// A closing bracket too many.
    #[error("there is a `]` too many")]
    Close,
    /// Two layers without ` / ` between them, or none at all.
    #[error("a layer is expected before and after ` / `")]
    Empty,
}

impl Frame {
    /// Reads a text; line breaks count as spaces.
    ///
    /// # Errors
    /// The first thing that is not in the notation.
    pub fn parse(text: &str, names: &Names) -> Result<Self, TextError> {
        let tokens = tokens(text)?;
        let mut words = Words { tokens: &tokens, layer: String::new(), names };
        let frame = words.frame()?;
        if words.tokens.is_empty() { Ok(frame) } else { Err(TextError::Close) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(Vec<u8>),
    Slash,
    Open,
    Close,
}

fn tokens(text: &str) -> Result<Vec<Token>, TextError> {
    let mut tokens = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            letter if letter.is_whitespace() => {}
            '[' => tokens.push(Token::Open),
            ']' => tokens.push(Token::Close),
            '/' => tokens.push(Token::Slash),
            '"' => {
                let mut bytes = Vec::new();
                loop {
                    match (letters.next().ok_or(TextError::Open('"'))?, letters.peek()) {
                        ('"', _) => break,
                        ('\\', Some(escaped)) => {
                            bytes.push(match escaped {
                                'n' => b'\n',
                                'r' => b'\r',
                                't' => b'\t',
                                other => u8::try_from(*other).unwrap_or(b'?'),
                            });
                            letters.next();
                        }
                        (other, _) => bytes.extend(other.to_string().bytes()),
                    }
                }
                tokens.push(Token::Text(bytes));
            }
            first => {
                let mut word = String::from(first);
                while let Some(next) = letters.next_if(|next| !next.is_whitespace() && !matches!(next, '[' | ']')) {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    Ok(tokens)
}

/// What is left of the text.
struct Words<'a> {
    tokens: &'a [Token],
    /// The layer being read, for errors.
    layer: String,
    names: &'a Names,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    /// The next word of this layer.
    fn word(&mut self) -> Option<&'a str> {
        let Some(Token::Word(word)) = self.tokens.first() else { return None };
        self.next();
        Some(word)
    }

    fn next_if(&mut self, wanted: &str) -> bool {
        let found = matches!(self.tokens.first(), Some(Token::Word(word)) if word == wanted);
        if found {
            self.next();
        }
        found
    }

    /// The next word as a value.
    fn value<T>(&mut self, what: &'static str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, TextError> {
        let layer = self.layer.clone();
        match self.word() {
            None => Err(TextError::Missing { layer, what }),
            Some(word) => read(word).ok_or_else(|| TextError::Value { layer, word: word.to_owned(), what }),
        }
    }

    fn number<T: TryFrom<u32>>(&mut self) -> Result<T, TextError> {
        self.value("a number in range", |word| T::try_from(number(word)?).ok())
    }

    fn said(&mut self) -> Result<Override, TextError> {
        self.number().map(Some)
    }

    fn named_number(&mut self, names: &[(&str, u32)]) -> Result<Override, TextError> {
        self.value("a number or a known name", |word| {
            names.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).or_else(|| number(word))
        })
        .map(Some)
    }

    fn protocol(&mut self) -> Result<Override, TextError> {
        self.named_number(&PROTOCOLS.iter().map(|(name, value)| (*name, (*value).into())).collect::<Vec<_>>())
    }

    fn ether_type(&mut self) -> Result<Override, TextError> {
        self.named_number(&ETHER_TYPES.iter().map(|(name, value)| (*name, (*value).into())).collect::<Vec<_>>())
    }

    fn hex(&mut self) -> Result<Vec<u8>, TextError> {
        self.value("bytes such as 0x12ab", hex)
    }

    fn mac(&mut self) -> Result<[u8; 6], TextError> {
        let names = self.names;
        self.value("a hardware address or its name", |word| names.find_mac(word))
    }

    fn arrow(&mut self) -> Result<(), TextError> {
        self.value("`>`", |word| (word == ">").then_some(()))
    }

    fn ports(&mut self) -> Result<(u16, u16), TextError> {
        let source = self.number()?;
        self.arrow()?;
        Ok((source, self.number()?))
    }

    /// After `checksum`.
    fn checksum(&mut self) -> Result<Override, TextError> {
        if self.next_if("none") {
            return Ok(Some(0));
        }
        if !self.next_if("bad") {
            return self.said();
        }
        let exactly = matches!(self.tokens.first(), Some(Token::Word(word)) if number(word).is_some());
        if exactly { self.said() } else { Ok(Some(WRONG)) }
    }

    fn unknown<T>(&self, word: &str) -> Result<T, TextError> {
        Err(TextError::Word { layer: self.layer.clone(), word: word.to_owned() })
    }

    /// Layers up to the end, or to the bracket that closes them.
    fn frame(&mut self) -> Result<Frame, TextError> {
        let mut frame = Frame::default();
        loop {
            match self.next().ok_or(TextError::Empty)? {
                Token::Word(word) if word == "cut" => {
                    word.clone_into(&mut self.layer);
                    frame.cut = Some(self.value("a number of bytes", |word| number(word)?.try_into().ok())?);
                }
                Token::Word(word) => {
                    word.clone_into(&mut self.layer);
                    let layer = self.layer(word)?;
                    frame.layers.push(layer);
                }
                Token::Text(text) => frame.layers.push(Layer::Bytes(text.clone())),
                Token::Open => {
                    frame.layers.push(Layer::Quote(self.frame()?));
                    if self.next() != Some(&Token::Close) {
                        return Err(TextError::Open('['));
                    }
                }
                Token::Slash | Token::Close => return Err(TextError::Empty),
            }
            match self.tokens.first() {
                None | Some(Token::Close) => return Ok(frame),
                Some(Token::Slash) => drop(self.next()),
                Some(Token::Word(word)) => return self.unknown(word),
                Some(Token::Text(_) | Token::Open) => return Err(TextError::Empty),
            }
        }
    }

    fn layer(&mut self, name: &str) -> Result<Layer, TextError> {
        Ok(match name {
            "eth" => Layer::Ethernet(self.ethernet()?),
            "vlan" | "qinq" => Layer::Vlan(self.vlan(name == "qinq")?),
            "arp" => Layer::Arp(self.arp()?),
            "ip" => Layer::Ipv4(self.ipv4()?),
            "ip6" => Layer::Ipv6(self.ipv6()?),
            "hopopts" => Layer::Extension(self.extension(0)?),
            "routing" => Layer::Extension(self.extension(43)?),
            "dstopts" => Layer::Extension(self.extension(60)?),
            "frag" => Layer::Fragment(self.fragment()?),
            "tcp" => Layer::Tcp(self.tcp()?),
            "udp" => Layer::Udp(self.udp()?),
            "icmp" => Layer::Icmp(self.icmp(false)?.0),
            "icmp6" => {
                let (header, neighbor) = self.icmp(true)?;
                Layer::Icmpv6(header, neighbor)
            }
            "sctp" => Layer::Sctp(self.sctp()?),
            "bytes" => Layer::Bytes(counting(self.number::<u16>()?.into())),
            "zeros" => Layer::Bytes(vec![0; self.number::<u16>()?.into()]),
            "trailer" => Layer::Trailer(self.hex()?),
            other => Layer::Bytes(hex(other).ok_or_else(|| TextError::Layer(other.to_owned()))?),
        })
    }

    fn ethernet(&mut self) -> Result<Ethernet, TextError> {
        let source = self.mac()?;
        self.arrow()?;
        let mut eth = Ethernet { source, destination: self.mac()?, ether_type: None };
        while let Some(word) = self.word() {
            match word {
                "type" => eth.ether_type = self.ether_type()?,
                other => return self.unknown(other),
            }
        }
        Ok(eth)
    }

    fn vlan(&mut self, service: bool) -> Result<Vlan, TextError> {
        let mut tag = Vlan { service, id: self.number()?, ..Vlan::default() };
        while let Some(word) = self.word() {
            match word {
                "pcp" => tag.priority = self.number()?,
                "dei" => tag.drop_eligible = true,
                "type" => tag.ether_type = self.ether_type()?,
                other => return self.unknown(other),
            }
        }
        Ok(tag)
    }

    fn arp(&mut self) -> Result<Arp, TextError> {
        let names = self.names;
        let address = |word: &str| names.find_ipv4(word);
        let mut arp = Arp {
            operation: self.value("request, reply or a number", |word| match word {
                "request" => Some(1),
                "reply" => Some(2),
                other => number(other)?.try_into().ok(),
            })?,
            sender: self.value("an IPv4 address or its name", address)?,
            ..Arp::default()
        };
        self.value("`at`", |word| (word == "at").then_some(()))?;
        arp.sender_mac = self.mac()?;
        self.arrow()?;
        arp.target = self.value("an IPv4 address or its name", address)?;
        while let Some(word) = self.word() {
            match word {
                "at" => arp.target_mac = self.mac()?,
                "htype" => arp.hardware_type = self.said()?,
                "ptype" => arp.protocol_type = self.said()?,
                "hlen" => arp.hardware_length = self.said()?,
                "plen" => arp.protocol_length = self.said()?,
                other => return self.unknown(other),
            }
        }
        Ok(arp)
    }

    fn ipv4(&mut self) -> Result<Ipv4, TextError> {
        let names = self.names;
        let source = self.value("an IPv4 address or its name", |word| names.find_ipv4(word))?;
        self.arrow()?;
        let destination = self.value("an IPv4 address or its name", |word| names.find_ipv4(word))?;
        let mut ip = Ipv4 { source, destination, ..Ipv4::default() };
        while let Some(word) = self.word() {
            match word {
                "ttl" => ip.ttl = self.number()?,
                "tos" => ip.tos = self.number()?,
                "id" => ip.id = self.number()?,
                "reserved" => ip.reserved = true,
                "df" => ip.dont_fragment = true,
                "mf" => ip.more_fragments = true,
                "offset" => ip.offset = self.offset()?,
                "options" => ip.options = self.hex()?,
                "version" => ip.version = self.said()?,
                "ihl" => ip.header_length = self.said()?,
                "len" => ip.length = self.said()?,
                "proto" => ip.protocol = self.protocol()?,
                "checksum" => ip.checksum = self.checksum()?,
                other => return self.unknown(other),
            }
        }
        ip.options.resize(ip.options.len().div_ceil(4) * 4, 0);
        Ok(ip)
    }

    fn offset(&mut self) -> Result<u16, TextError> {
        self.value("a multiple of eight up to 65528", |word| {
            u16::try_from(number(word)?).ok().filter(|offset| offset.is_multiple_of(8))
        })
    }

    fn ipv6(&mut self) -> Result<Ipv6, TextError> {
        let names = self.names;
        let source = self.value("an IPv6 address or its name", |word| names.find_ipv6(word))?;
        self.arrow()?;
        let destination = self.value("an IPv6 address or its name", |word| names.find_ipv6(word))?;
        let mut ip = Ipv6 { source, destination, ..Ipv6::default() };
        while let Some(word) = self.word() {
            match word {
                "hlim" => ip.hop_limit = self.number()?,
                "class" => ip.class = self.number()?,
                "flow" => ip.flow = self.number()?,
                "version" => ip.version = self.said()?,
                "len" => ip.length = self.said()?,
                "next" => ip.next = self.protocol()?,
                other => return self.unknown(other),
            }
        }
        Ok(ip)
    }

    fn extension(&mut self, kind: u8) -> Result<Extension, TextError> {
        let mut extension = Extension { kind, data: PADDING.to_vec(), length: None, next: None };
        while let Some(word) = self.word() {
            match word {
                "len" => extension.length = self.said()?,
                "next" => extension.next = self.protocol()?,
                other => match hex(other) {
                    Some(data) => extension.data = data,
                    None => return self.unknown(other),
                },
            }
        }
        Ok(extension)
    }

    fn fragment(&mut self) -> Result<Fragment, TextError> {
        let mut fragment = Fragment::default();
        while let Some(word) = self.word() {
            match word {
                "offset" => fragment.offset = self.offset()?,
                "id" => fragment.id = self.number()?,
                "mf" => fragment.more = true,
                "reserved" => fragment.reserved = self.number()?,
                "next" => fragment.next = self.protocol()?,
                other => return self.unknown(other),
            }
        }
        Ok(fragment)
    }

    fn tcp(&mut self) -> Result<Tcp, TextError> {
        let (source, destination) = self.ports()?;
        let flags = self.value("flags such as SA, or -", |word| {
            if word == "-" {
                return Some(0);
            }
            word.chars().try_fold(0, |flags, letter| Some(flags | (1 << TCP_FLAGS.find(letter)?)))
        })?;
        let mut tcp = Tcp { source, destination, flags, ..Tcp::default() };
        while let Some(word) = self.word() {
            match word {
                "seq" => tcp.sequence = self.number()?,
                "ack" => tcp.acknowledgement = self.number()?,
                "win" => tcp.window = self.number()?,
                "urg" => tcp.urgent = self.number()?,
                "reserved" => tcp.reserved = self.number()?,
                "doff" => tcp.data_offset = self.said()?,
                "checksum" => tcp.checksum = self.checksum()?,
                "nop" => tcp.options.push(TcpOption::Nop),
                "mss" => tcp.options.push(TcpOption::MaximumSegment(self.number()?)),
                "wscale" => tcp.options.push(TcpOption::WindowScale(self.number()?)),
                "sackok" => tcp.options.push(TcpOption::SackPermitted),
                "sack" => tcp.options.push(TcpOption::Sack(self.value("blocks such as 1-2,5-7", sack)?)),
                "ts" => tcp.options.push(TcpOption::Timestamps(self.number()?, self.number()?)),
                "opt" => tcp.options.push(TcpOption::Other(self.hex()?)),
                other => return self.unknown(other),
            }
        }
        Ok(tcp)
    }

    fn udp(&mut self) -> Result<Udp, TextError> {
        let (source, destination) = self.ports()?;
        let mut udp = Udp { source, destination, ..Udp::default() };
        while let Some(word) = self.word() {
            match word {
                "len" => udp.length = self.said()?,
                "checksum" => udp.checksum = self.checksum()?,
                other => return self.unknown(other),
            }
        }
        Ok(udp)
    }

    fn icmp(&mut self, v6: bool) -> Result<(Icmp, Option<Neighbor>), TextError> {
        let mut header = Icmp::default();
        let mut kind = None;
        if self.next_if("type") {
            header.kind = self.number()?;
        } else {
            let named = self.value("a kind of message, or `type N`", |word| {
                icmp::kinds(v6).iter().find(|kind| kind.name == word)
            })?;
            header.kind = named.number;
            kind = Some(named);
        }
        let mut neighbor = (v6 && icmp::is_discovery(header.kind)).then(Neighbor::default);
        let names = self.names;
        while let Some(word) = self.word() {
            match (word, kind.map_or(Rest::Unused, |kind| kind.rest)) {
                ("code", _) => header.code = self.number()?,
                ("rest", _) => header.rest = self.value("four bytes", |word| hex(word)?.try_into().ok())?,
                ("checksum", _) => header.checksum = self.checksum()?,
                ("id", Rest::Echo) => header.rest[..2].copy_from_slice(&self.number::<u16>()?.to_be_bytes()),
                ("seq", Rest::Echo) => header.rest[2..].copy_from_slice(&self.number::<u16>()?.to_be_bytes()),
                ("mtu", Rest::ShortMtu) => header.rest[2..].copy_from_slice(&self.number::<u16>()?.to_be_bytes()),
                ("mtu", Rest::Mtu) | ("pointer", Rest::Pointer) => header.rest = self.number::<u32>()?.to_be_bytes(),
                ("pointer", Rest::ShortPointer) => header.rest[0] = self.number()?,
                ("router", Rest::Advertisement) => header.rest[0] |= 0x80,
                ("solicited", Rest::Advertisement) => header.rest[0] |= 0x40,
                ("override", Rest::Advertisement) => header.rest[0] |= 0x20,
                (other, _) => {
                    let code = kind.and_then(|kind| kind.codes.iter().find(|(_, name)| *name == other));
                    match (code, &mut neighbor) {
                        (Some((code, _)), _) => header.code = *code,
                        (None, Some(neighbor)) => match other {
                            "target" => {
                                let find = |word: &str| names.find_ipv6(word);
                                neighbor.target = Some(self.value("an IPv6 address or its name", find)?);
                            }
                            "slla" => neighbor.options.push(NdOption::Source(self.mac()?)),
                            "tlla" => neighbor.options.push(NdOption::Target(self.mac()?)),
                            "opt" => neighbor.options.push(NdOption::Other(self.hex()?)),
                            other => return self.unknown(other),
                        },
                        (None, None) => return self.unknown(other),
                    }
                }
            }
        }
        Ok((header, neighbor))
    }

    fn sctp(&mut self) -> Result<Sctp, TextError> {
        let (source, destination) = self.ports()?;
        let mut sctp = Sctp { source, destination, ..Sctp::default() };
        while let Some(word) = self.word() {
            match word {
                "tag" => sctp.tag = self.number()?,
                "checksum" => sctp.checksum = self.checksum()?,
                other => return self.unknown(other),
            }
        }
        Ok(sctp)
    }
}

fn number(word: &str) -> Option<u32> {
    match word.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

fn hex(word: &str) -> Option<Vec<u8>> {
    let digits = word.strip_prefix("0x")?;
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

fn sack(word: &str) -> Option<Vec<(u32, u32)>> {
    word.split(',')
        .map(|block| {
            let (left, right) = block.split_once('-')?;
            Some((left.parse().ok()?, right.parse().ok()?))
        })
        .collect()
}
