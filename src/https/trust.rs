//! By what a server is told to be the right one.

use std::path::Path;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};

use super::error::{TrustError, Why};
use crate::target::password::small_file;
use crate::target::{Fingerprint, Trust};

/// The longest CA file, in bytes: a system's own have a quarter of a million.
const LONGEST: u64 = 4 << 20;

/// What TLS needs to know, for all connections.
pub(super) fn config(trust: &Trust) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let by = match trust {
        Trust::System => By::Authorities(verifier(system_roots()?, &provider)?),
        Trust::Ca(file) => {
            let roots = file_roots(file)
                .map_err(|reason| TrustError::CaFile { file: file.clone(), reason })?;
            By::Authorities(verifier(roots, &provider)?)
        }
        Trust::Pin(pin) => By::Pin(*pin),
        Trust::Anything => By::Nothing,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| TrustError::Tls(error.to_string()))?;
    // "Dangerous", as it is up to `Verifier` now.
    let builder = builder.dangerous();
    let verifier = Arc::new(Verifier { by, algorithms });
    Ok(builder.with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// That of a certificate in PEM; `None` if there is none in it.
pub(crate) fn fingerprint_of_pem(pem: &str) -> Option<Fingerprint> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|leaf| fingerprint(&leaf))
}

/// The SHA-256 of a certificate.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
    Fingerprint(bytes)
}

fn system_roots() -> Result<RootCertStore, TrustError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems keep a few that are too old for any use.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        return Err(TrustError::NoSystemRoots(reason));
    }
    Ok(roots)
}

fn file_roots(file: &Path) -> Result<RootCertStore, String> {
    let (text, _) = small_file(file, LONGEST)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| format!("it is not in PEM: {error}"))?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("it has no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned());
    }
    Ok(roots)
}

fn verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, TrustError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| TrustError::Tls(error.to_string()))
}

#[derive(Debug)]
enum By {
    Authorities(Arc<WebPkiServerVerifier>),
    Pin(Fingerprint),
    Nothing,
}

#[derive(Debug)]
struct Verifier {
    by: By,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = fingerprint(leaf);
        let why = match &self.by {
            By::Authorities(authorities) => {
                match authorities.verify_server_cert(leaf, others, name, ocsp, now) {
                    Ok(verified) => return Ok(verified),
                    Err(error) => not_trusted(&error, presented),
                }
            }
            // Name and dates do not matter: it is this certificate, or it is not.
            By::Pin(expected) if *expected != presented => {
                Why::WrongPin { expected: *expected, presented }
            }
            By::Pin(_) | By::Nothing => return Ok(ServerCertVerified::assertion()),
        };
        Err(in_our_words(why))
    }

    // By these the server shows that it has the key of its certificate: without them, whoever has seen
    // the certificate could answer to a pin.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.by {
            By::Nothing => Ok(HandshakeSignatureValid::assertion()),
            _ => verify_tls12_signature(message, certificate, signature, &self.algorithms)
                .map_err(|error| in_our_words(unverifiable(&error, fingerprint(certificate)))),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.by {
            By::Nothing => Ok(HandshakeSignatureValid::assertion()),
            _ => verify_tls13_signature(message, certificate, signature, &self.algorithms)
                .map_err(|error| in_our_words(unverifiable(&error, fingerprint(certificate)))),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A failure that comes through rustls as it is.
fn in_our_words(why: Why) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// What webpki says of X.509 version 1, which OpenSSL makes unless told otherwise.
const OLD: &str = "UnsupportedCertVersion";

fn old(presented: Fingerprint) -> Why {
    Why::Unverifiable { reason: "the certificate is of X.509 version 1", presented }
}

/// Whether an error is one of webpki's, which has no type that rustls would pass on.
fn webpki_says(error: &CertificateError, name: &str) -> bool {
    matches!(error, CertificateError::Other(other) if format!("{other:?}").contains(name))
}

fn unverifiable(error: &rustls::Error, presented: Fingerprint) -> Why {
    match error {
        rustls::Error::InvalidCertificate(error) if webpki_says(error, OLD) => old(presented),
        _ => Why::Unverifiable {
            reason: "its signature does not fit, or its key is short",
            presented,
        },
    }
}

fn not_trusted(error: &rustls::Error, presented: Fingerprint) -> Why {
    use CertificateError as E;
    let because = |reason: &str| Why::NotTrusted { reason: reason.to_owned(), presented };
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            E::NotValidForName | E::NotValidForNameContext { .. } => Why::WrongName { presented },
            E::Expired | E::ExpiredContext { .. } => because("it has expired; renew it there"),
            E::NotValidYet | E::NotValidYetContext { .. } => {
                because("it is not valid yet; check the clocks")
            }
            E::UnknownIssuer => Why::UnknownCa { presented },
            _ if webpki_says(error, "CaUsedAsEndEntity") => {
                because("it is a CA's own certificate, not a server's")
            }
            _ if webpki_says(error, OLD) => old(presented),
            _ => because(&error.to_string()),
        },
        _ => because(&error.to_string()),
    }
}
