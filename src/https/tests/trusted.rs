//! Which servers are trusted, and what TLS they may speak.

use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::*;

/// A server that presents any certificate, and signs with any key: whoever has seen a certificate can.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesServerCert for Presents {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn presenting(
    pem: &[u8],
    key: &[u8],
    version: &'static SupportedProtocolVersion,
) -> Arc<ServerConfig> {
    let key = any_supported_type(&PrivateKeyDer::from_pem_slice(key).unwrap()).unwrap();
    let presents = Presents(Arc::new(CertifiedKey::new(vec![certificate(pem)], key)));
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap().with_no_client_auth();
    Arc::new(builder.with_cert_resolver(Arc::new(presents)))
}

#[test]
fn a_pin_fits_one_certificate_whatever_is_in_it() {
    for pem in [HERE, ELSEWHERE, EXPIRED, SELF_SIGNED] {
        let port = listen_tls(usual(pem), 2, |_, tls| tls.write_all(HELLO.as_bytes()).unwrap());
        let answer = with_trust(&Trust::Pin(pin(pem)), port).unwrap();
        assert_eq!((answer.status, answer.certificate), (200, pin(pem)));
        let expected = Fingerprint([0xab; 32]);
        let why = Why::WrongPin { expected, presented: pin(pem) };
        assert!(why.to_string().contains(&format!("{}, not AB:AB:AB", pin(pem))), "{why}");
        assert_eq!(with_trust(&Trust::Pin(expected), port).err(), Some(why));
    }
}

#[test]
fn a_pin_is_worth_nothing_without_the_key() {
    let other = include_bytes!("../certificates/other.key");
    for version in [&TLS12, &TLS13] {
        let port = listen_tls(presenting(HERE, other, version), 1, |_, _| {});
        let why = get(port, LONG).err();
        assert!(
            matches!(why, Some(Why::Unverifiable { presented, .. }) if presented == pin(HERE)),
            "{version:?}: {why:?}"
        );
    }
}

#[test]
fn a_ca_vouches_for_name_and_dates() {
    let port = |pem| listen_tls(usual(pem), 2, |_, tls| tls.write_all(HELLO.as_bytes()).unwrap());
    let here = port(HERE);
    assert_eq!(with_trust(&ca(), here).unwrap().certificate, pin(HERE));
    let by_name = Request::get("localhost", here, "/");
    assert_eq!(send(&client(&ca()), &by_name, LONG).unwrap().status, 200);
    let wrong_name = Why::WrongName { presented: pin(ELSEWHERE) };
    assert_eq!(with_trust(&ca(), port(ELSEWHERE)).err(), Some(wrong_name));
    for (trust, pem) in [
        (ca(), SELF_SIGNED),
        (Trust::System, HERE),
        (Trust::Ca(certificate_file("here.pem")), SELF_SIGNED),
    ] {
        // Where there is no system's CA at all, nothing is trusted either.
        let client = match Client::new(&trust) {
            Ok(client) => client,
            Err(TrustError::NoSystemRoots(_)) if trust == Trust::System => continue,
            Err(error) => panic!("{error}"),
        };
        let answer = send(&client, &Request::get(HOST, port(pem), "/"), LONG);
        let why = Why::UnknownCa { presented: pin(pem) };
        assert_eq!(answer.err(), Some(why.clone()));
        let sentence = why.to_string();
        assert!(
            sentence.contains(&format!("sha256={} in place of ca_file=", pin(pem))),
            "{sentence}"
        );
        assert!(sentence.contains("let ca_file= in the URI name"), "{sentence}");
    }
}

/// A file that goes with its test, also if that fails.
struct Goes(std::path::PathBuf);

impl Drop for Goes {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn ca_certificates_that_were_replaced_count_once_the_old_ones_do_not_do() {
    let port = listen_tls(usual(HERE), 5, |_, tls| tls.write_all(HELLO.as_bytes()).unwrap());
    let file = Goes(std::env::temp_dir().join(format!("virtmeter-{}-ca.pem", std::process::id())));
    let write = |name| std::fs::copy(certificate_file(name), &file.0).unwrap();
    write("selfsigned.pem");
    let client = client(&Trust::Ca(file.0.clone()));
    let get = || send(&client, &Request::get(HOST, port, "/"), LONG).map(|answer| answer.status);
    let unknown = Err(Why::UnknownCa { presented: pin(HERE) });
    assert_eq!([get(), get()], [unknown.clone(), unknown.clone()]);
    std::fs::remove_file(&file.0).unwrap();
    assert_eq!(get(), unknown);
    write("ca.pem");
    assert_eq!([get(), get()], [Ok(200), Ok(200)]);
}

#[test]
fn what_no_ca_can_vouch_for_is_not_to_be_trusted_by_another_ca() {
    let own = include_bytes!("../certificates/ca.pem");
    for (pem, because) in [(EXPIRED, "it has expired; renew it there"), (own, "a CA's own")] {
        let port = listen_tls(presenting(pem, KEY, &TLS13), 1, |_, _| {});
        let why = with_trust(&ca(), port).err().unwrap();
        let Why::NotTrusted { reason, presented } = &why else { panic!("{why:?}") };
        assert!(reason.contains(because), "{reason}");
        assert_eq!(*presented, pin(pem));
        let advice = format!("only sha256={} in the URI, in place of ca_file=", pin(pem));
        assert!(why.to_string().contains(&advice), "{why}");
    }
}

#[test]
fn a_certificate_of_version_1_is_told_as_what_it_is() {
    let port = listen_tls(presenting(VERSION_1, KEY, &TLS13), 3, |_, tls| {
        tls.write_all(HELLO.as_bytes()).unwrap();
    });
    for trust in [Trust::Pin(pin(VERSION_1)), ca()] {
        let why = with_trust(&trust, port).err().unwrap();
        assert!(why.to_string().contains("X.509 version 1. Renew"), "{why}");
    }
    assert_eq!(with_trust(&Trust::Anything, port).unwrap().status, 200);
}

#[test]
fn what_is_not_to_be_verified_is_not() {
    for pem in [ELSEWHERE, EXPIRED, SELF_SIGNED] {
        let port = listen_tls(usual(pem), 1, |_, tls| tls.write_all(HELLO.as_bytes()).unwrap());
        assert_eq!(with_trust(&Trust::Anything, port).unwrap().certificate, pin(pem));
    }
}

#[test]
fn a_ca_file_that_cannot_be_used_is_named() {
    for (file, reason) in [
        (PathBuf::from("/nonexistent/ca.pem"), "No such file"),
        (PathBuf::from("/"), "not a regular file"),
        (PathBuf::from("/dev/null"), "not a regular file"),
        (certificate_file("server.key"), "no certificate in PEM"),
        (certificate_file("make"), "no certificate in PEM"),
    ] {
        let error = Client::new(&Trust::Ca(file.clone())).err().unwrap().to_string();
        assert!(error.contains(reason) && error.contains(file.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_host_of_xenserver_can_be_spoken_to() {
    // TLS 1.2 with two cipher suites and one curve: XenServer's policy.
    let group: &dyn SupportedKxGroup = kx_group::SECP384R1;
    let provider = CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![group],
        ..default_provider()
    };
    let config = server_config(provider, &[&TLS12], SELF_SIGNED);
    let port = listen_tls(config, 1, |_, tls| tls.write_all(HELLO.as_bytes()).unwrap());
    let answer = with_trust(&Trust::Pin(pin(SELF_SIGNED)), port).unwrap();
    assert_eq!(*answer.body, *b"hello");
}

#[test]
fn the_next_handshake_goes_on_from_the_last() {
    for versions in [[&TLS12], [&TLS13]] {
        let (told, kinds) = channel();
        let config = server_config(default_provider(), &versions, HERE);
        let port = listen_tls(config, 3, move |_, tls| {
            told.send(tls.conn.handshake_kind()).unwrap();
            tls.write_all(HELLO.as_bytes()).unwrap();
            wait_for_close(tls);
        });
        let client = client(&Trust::Pin(pin(HERE)));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let answer = send(&client, &Request::get(HOST, port, "/"), LONG).unwrap();
            assert_eq!(answer.certificate, pin(HERE));
            assert_eq!(kinds.recv().unwrap(), Some(expected), "{versions:?}");
        }
    }
}
