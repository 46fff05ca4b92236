//! URIs as people write them, right and wrong.

use proptest::prelude::*;

use super::*;

const PIN: &str = "00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:\
                   F0:F1:F2:F3:F4:F5:F6:F7:F8:F9:FA:FB:FC:FD:FE:FF";

fn parse(uri: &str) -> Result<Target, TargetError> {
    uri.parse()
}

fn pin() -> Fingerprint {
    PIN.parse().unwrap()
}

#[test]
fn a_uri_tells_all_but_the_password() {
    let target = parse(&format!(
        "xenserver://monitor@Pool.example.org:8443/?password_file=/etc/virtmeter/a%20b.pass&sha256={PIN}"
    ))
    .unwrap();
    assert_eq!(
        target,
        Target {
            scheme: Scheme::XenServer,
            user: "monitor".to_owned(),
            host: "pool.example.org".to_owned(),
            port: 8443,
            password_file: Some("/etc/virtmeter/a b.pass".into()),
            trust: Trust::Pin(pin()),
            control_domains: false,
        }
    );
    assert_eq!(pin().0[..3], [0, 1, 2]);
    assert_eq!(pin().0[31], 255);
}

#[test]
fn what_is_left_out_has_its_usual_value() {
    for uri in ["vsphere://a@h", "vsphere://a@h/", "vsphere://a@h?", "VSphere://a@H:443/?&"] {
        let target = parse(uri).unwrap();
        assert_eq!((target.port, &target.trust), (443, &Trust::System), "{uri}");
        assert_eq!(target.to_string(), "vsphere://a@h/", "{uri}");
    }
}

#[test]
fn a_user_may_be_of_a_domain() {
    for (uri, user) in [
        ("vsphere://administrator%40vsphere.local@vc", "administrator@vsphere.local"),
        ("vsphere://CORP%5cme@vc", r"CORP\me"),
        (r"vsphere://CORP\me@vc", r"CORP\me"),
        ("xenserver://j%C3%B6rg@vc", "jörg"),
        ("xenserver://jörg@vc", "jörg"),
        ("xenserver://100%25@vc", "100%"),
    ] {
        let target = parse(uri).unwrap();
        assert_eq!(target.user, user);
        assert_eq!(parse(&target.to_string()).unwrap(), target);
    }
}

#[test]
fn a_host_is_a_name_or_an_address() {
    for (host, name, port, shown) in [
        ("[::1]", "::1", 443, "[::1]"),
        ("[2001:DB8::0:1]:444", "2001:db8::1", 444, "[2001:db8::1]:444"),
        ("10.0.0.1:1", "10.0.0.1", 1, "10.0.0.1:1"),
        ("xs_1.example.org:65535", "xs_1.example.org", 65535, "xs_1.example.org:65535"),
    ] {
        let target = parse(&format!("xenserver://u@{host}/")).unwrap();
        assert_eq!((target.host.as_str(), target.port), (name, port));
        assert_eq!(target.to_string(), format!("xenserver://u@{shown}/"));
    }
}

#[test]
fn a_server_is_trusted_in_one_of_four_ways() {
    let plain = PIN.replace(':', "").to_lowercase();
    for (query, trust) in [
        ("", Trust::System),
        ("?ca_file=ca.pem", Trust::Ca("ca.pem".into())),
        ("?insecure=1", Trust::Anything),
        (&format!("?sha256={plain}"), Trust::Pin(pin())),
        (&format!("?sha256={}", PIN.to_lowercase()), Trust::Pin(pin())),
        (&format!("?sha256={}", PIN.replace(':', "%3A")), Trust::Pin(pin())),
    ] {
        let target = parse(&format!("xenserver://u@h/{query}")).unwrap();
        assert_eq!(target.trust, trust, "{query}");
        assert_eq!(parse(&target.to_string()).unwrap(), target);
    }
}

#[test]
fn what_is_wrong_is_said() {
    use TargetError as E;
    let long = "a".repeat(254);
    let short = &PIN[3..];
    let uneven = PIN.replacen("00:01", "0:001", 1);
    let gap = PIN.replacen("00:01", "0001", 1);
    let no_digit = PIN.replacen("00", "0g", 1);
    let sign = PIN.replacen("00", "+0", 1);
    for (uri, error) in [
        ("", E::UnknownScheme),
        ("qemu:///system", E::UnknownScheme),
        ("https://u@h/", E::UnknownScheme),
        ("xenserver:u@h", E::UnknownScheme),
        ("xenserver://h/", E::NoUser),
        ("xenserver://", E::NoUser),
        ("xenserver://h:443/", E::NoUser),
        ("xenserver://@h/", E::NoUser),
        ("xenserver://a@b@h/", E::BadUser),
        ("xenserver://a%0ab@h/", E::BadUser),
        ("xenserver://%ff@h/", E::BadUser),
        ("xenserver://a%4@h/", E::BadEscape),
        ("xenserver://a%zz@h/", E::BadEscape),
        ("xenserver://a%+1@h/", E::BadEscape),
        ("xenserver://a@h/?ca_file=%", E::BadEscape),
        ("xenserver://u@/", E::NoHost),
        ("xenserver://u@:443/", E::NoHost),
        ("xenserver://u@h h/", E::BadHost),
        ("xenserver://u@h%20/", E::BadHost),
        ("xenserver://u@hö/", E::BadHost),
        ("xenserver://u@::1/", E::NoHost),
        ("xenserver://u@fe80::1/", E::BadHost),
        ("xenserver://u@[::1/", E::BadHost),
        ("xenserver://u@[::g]/", E::BadHost),
        ("xenserver://u@[10.0.0.1]/", E::BadHost),
        ("xenserver://u@[::1]443/", E::BadHost),
        (&format!("xenserver://u@{long}/"), E::BadHost),
        ("xenserver://u@h:/", E::BadPort),
        ("xenserver://u@h:0/", E::BadPort),
        ("xenserver://u@h:65536/", E::BadPort),
        ("xenserver://u@h:+1/", E::BadPort),
        ("xenserver://u@h:https/", E::BadPort),
        ("xenserver://u@h/pool", E::Path),
        ("xenserver://u@h//", E::Path),
        ("xenserver://u@h/#a", E::Fragment),
        ("xenserver://u@h/?ca_file=a#b", E::Fragment),
        ("xenserver://u@h/?control_domains=yes", E::BadFlag("control_domains")),
        ("vsphere://u@h/?control_domains=1", E::ControlDomains),
        ("xenserver://u@h/?verify=1", E::UnknownOption(Some("verify".to_owned()))),
        ("xenserver://u@h/?INSECURE=1", E::UnknownOption(Some("INSECURE".to_owned()))),
        ("xenserver://u@h/?insecure", E::UnknownOption(None)),
        ("xenserver://u@h/?a\u{1b}b=1", E::UnknownOption(None)),
        ("xenserver://u@h/?insecure=1&insecure=1", E::Repeated("insecure")),
        ("xenserver://u@h/?password_file=a&password_file=b", E::Repeated("password_file")),
        ("xenserver://u@h/?password_file=", E::Empty("password_file")),
        ("xenserver://u@h/?sha256=", E::Empty("sha256")),
        ("xenserver://u@h/?insecure=0", E::BadFlag("insecure")),
        ("xenserver://u@h/?sha256=00", E::BadPin),
        ("xenserver://u@h/?sha256=%ff", E::BadPin),
        (&format!("xenserver://u@h/?sha256={short}"), E::BadPin),
        (&format!("xenserver://u@h/?sha256={PIN}:00"), E::BadPin),
        (&format!("xenserver://u@h/?sha256={uneven}"), E::BadPin),
        (&format!("xenserver://u@h/?sha256={gap}"), E::BadPin),
        (&format!("xenserver://u@h/?sha256={no_digit}"), E::BadPin),
        (&format!("xenserver://u@h/?sha256={sign}"), E::BadPin),
        (&format!("xenserver://u@h/?sha256={PIN}&ca_file=a"), E::TwoTrusts("sha256", "ca_file")),
        (&format!("xenserver://u@h/?insecure=1&sha256={PIN}"), E::TwoTrusts("sha256", "insecure")),
        ("xenserver://u@h/?insecure=1&ca_file=a", E::TwoTrusts("ca_file", "insecure")),
    ] {
        assert_eq!(parse(uri), Err(error), "{uri}");
    }
}

#[test]
fn a_password_in_a_uri_is_refused_and_not_shown() {
    for uri in [
        "xenserver://u:s3cret@h/",
        "xenserver://u%3As3cret@h/",
        "xenserver://:s3cret@h/",
        "xenserver://u:s3@cret@h/",
        "xenserver://u:s3/cret@h/",
        "xenserver://u:s3?cret@h/",
        "xenserver://u:s3#cret@h/",
        "xenserver://u@h/?password=s3cret",
    ] {
        let error = parse(uri).unwrap_err();
        assert_eq!(error, TargetError::PasswordInside, "{uri}");
        assert!(error.to_string().contains("password_file="));
    }
}

proptest! {
    #[test]
    fn no_text_is_too_much_for_it_nor_repeated(text in "[ -~é]{0,40}", scheme in "(xenserver|vsphere)://") {
        if let Err(error) = parse(&format!("{scheme}{text}")) {
            let allowed = error.to_string() + &format!("{error:?}");
            // Names of options apart, a word of five letters is in no sentence by chance.
            let named = matches!(error, TargetError::UnknownOption(Some(_)));
            prop_assert!(named || !allowed.contains(&text) || text.len() < 5, "{error}");
        }
    }

    #[test]
    fn the_canonical_form_names_the_same_target(
        user in "[^:\\p{Cc}]{1,12}", host in "[a-z][a-z0-9.-]{0,20}", port in 1_u16..,
        file in proptest::option::of("[^\\x00]{1,20}"), trust in 0..4_u8, bytes: [u8; 32],
    ) {
        let trust = match trust {
            0 => Trust::System,
            1 => Trust::Anything,
            2 => Trust::Pin(Fingerprint(bytes)),
            _ => Trust::Ca(path(bytes.to_vec())),
        };
        let password_file = file.map(PathBuf::from);
        let target =
            Target { scheme: Scheme::VSphere, user, host, port, password_file, trust, control_domains: false };
        let shown = target.to_string();
        prop_assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()));
        prop_assert_eq!(parse(&shown), Ok(target));
    }
}
