//! TLS handshakes.

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::{
    Active, Context,
    stream::{News, receive, send, would_block},
    tcp::Step,
};
use crate::{
    cause::Cause,
    config::{Lane, TlsVerify},
    record::Failure,
};

/// Where distributions keep the certificates they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Why TLS servers cannot be verified as asked for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TlsError {
    /// No certificate that could be trusted.
    #[error("no trusted certificates: {0}; give some, or switch verification off")]
    NoRoots(String),
    /// The name cannot stand in a certificate.
    #[error("`{0}` is neither a host name nor an address that a certificate could be for")]
    Name(String),
    /// The library refuses to be set up.
    #[error("TLS: {0}")]
    Setup(String),
}

/// How a lane opens TLS sessions.
#[derive(Clone)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Client {
    pub(crate) fn new(lane: &Lane) -> Result<Self, TlsError> {
        let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(setup)?;
        let mut config = match &lane.options.tls {
            TlsVerify::Off => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth(),
            TlsVerify::Roots(pem) => builder.with_root_certificates(roots(pem.as_bytes())?).with_no_client_auth(),
            TlsVerify::System => builder.with_root_certificates(system_roots()?).with_no_client_auth(),
        };
        // Every handshake is to be a whole one.
        config.resumption = Resumption::disabled();
        let name = lane.options.tls_name.clone().unwrap_or_else(|| host(&lane.authority).to_owned());
        let name = ServerName::try_from(name.clone()).map_err(|_| TlsError::Name(name))?;
        Ok(Self { config: Arc::new(config), name })
    }

    pub(super) fn session(&self) -> Result<Session, Failure> {
        let connection = ClientConnection::new(self.config.clone(), self.name.clone())
            .map_err(|error| Failure::new(Cause::LocalError, error))?;
        Ok(Session { connection })
    }
}

/// The host of an authority, without port and brackets.
fn host(authority: &str) -> &str {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| TlsError::NoRoots(error.to_string()))?;
        roots.add(certificate).map_err(|error| TlsError::NoRoots(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots("there is none in the PEM text".to_owned()));
    }
    Ok(roots)
}

/// Certificates the library cannot read are left out: systems trust some that are very old.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let pem = SYSTEM_ROOTS
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .ok_or_else(|| TlsError::NoRoots(format!("none of {} can be read", SYSTEM_ROOTS.join(", "))))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    Ok(roots)
}

/// Takes any certificate, but still has the server prove that it holds the key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A handshake under way.
pub(super) struct Session {
    connection: ClientConnection,
}

impl Session {
    pub(super) fn advance(
        &mut self,
        socket: &OwnedFd,
        context: &Context,
        active: &mut Active,
        news: News,
    ) -> Result<Step, Failure> {
        self.write(socket, active)?;
        while news.readable && self.connection.is_handshaking() {
            let mut wire = Wire { socket, read: 0, written: 0 };
            let read = self.connection.read_tls(&mut wire);
            active.bytes_in += wire.read;
            match read {
                Ok(0) => return Err(Cause::EarlyEof.into()),
                Ok(_) => {
                    active.first_byte.get_or_insert_with(|| context.clock.now());
                    if let Err(error) = self.connection.process_new_packets() {
                        // The alert tells the server why; that it may not arrive changes nothing.
                        drop(self.write(socket, active));
                        return Err(Failure::new(Cause::Tls, error));
                    }
                    self.write(socket, active)?;
                }
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(Failure::new(Cause::of_stream(&error), error)),
            }
        }
        let complete = !self.connection.is_handshaking() && !self.connection.wants_write();
        Ok(if complete { Step::Idle } else { Step::Wait })
    }

    fn write(&mut self, socket: &OwnedFd, active: &mut Active) -> Result<(), Failure> {
        while self.connection.wants_write() {
            let mut wire = Wire { socket, read: 0, written: 0 };
            let written = self.connection.write_tls(&mut wire);
            active.bytes_out += wire.written;
            match written {
                Ok(_) => {}
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(Failure::new(Cause::of_stream(&error), error)),
            }
        }
        Ok(())
    }
}

/// A socket as the library wants it, with what went through.
struct Wire<'a> {
    socket: &'a OwnedFd,
    read: u64,
    written: u64,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = receive(self.socket, buffer)?;
        self.read += length as u64;
        Ok(length)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = send(self.socket, bytes)?;
        self.written += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_authorities() {
        for (authority, expected) in [("a.b:1", "a.b"), ("[::1]:2", "::1"), ("10.0.0.1:3", "10.0.0.1")] {
            assert_eq!(host(authority), expected);
        }
    }

    #[test]
    fn text_without_certificates_is_refused() {
        assert!(matches!(roots(b"nothing"), Err(TlsError::NoRoots(_))));
    }
}
