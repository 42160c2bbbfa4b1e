//! Names and numbers of certificates, in text.

use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString, UniversalString};
use rcgen::{DnValue, SerialNumber};

use super::*;

fn identity(names: Vec<(DnType, DnValue)>, serial: &[u8]) -> Identity {
    let certificate = Ca::new("the, issuer").sign_with("unused", &[], Kind::Ecdsa, |params| {
        params.distinguished_name.remove(DnType::CommonName);
        names.into_iter().for_each(|(kind, value)| params.distinguished_name.push(kind, value));
        params.serial_number = Some(SerialNumber::from_slice(serial));
    });
    Identity::of(&certificate.chain[0]).unwrap()
}

fn subject(names: Vec<(DnType, DnValue)>) -> String {
    identity(names, &[1]).subject.into()
}

fn text(text: &str) -> DnValue {
    DnValue::Utf8String(text.into())
}

#[test]
fn names_are_written_from_the_last_to_the_first_and_called_as_rfc_4514_calls_them() {
    let email = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
    let own = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99_999, 1]);
    let names = vec![
        (DnType::CountryName, DnValue::PrintableString(PrintableString::try_from("DE").unwrap())),
        (DnType::OrganizationName, text("Corp")),
        (DnType::OrganizationalUnitName, text("Mail")),
        (DnType::CommonName, text("anna")),
        (email, DnValue::Ia5String(Ia5String::try_from("a@corp.test").unwrap())),
        (own, text("x")),
    ];
    assert_eq!(subject(names), "1.3.6.1.4.1.99999.1=x,emailAddress=a@corp.test,CN=anna,OU=Mail,O=Corp,C=DE");
    assert_eq!(identity(Vec::new(), &[1]).subject, "".into());
    assert_eq!(identity(Vec::new(), &[1]).issuer, "CN=the\\, issuer".into());
}

#[test]
fn what_means_something_in_a_name_is_escaped_and_nothing_ends_a_line() {
    for (value, written) in [
        ("plain name", "plain name"),
        ("a,b+c\"d\\e<f>g;h", "a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h"),
        (" a ", "\\ a\\ "),
        ("#1", "\\#1"),
        ("a#", "a#"),
        (" ", "\\ "),
        ("a=b", "a=b"),
        ("a\r\nX-Admin: 1", "a\\0D\\0AX-Admin: 1"),
        ("a\0b\x7f\u{85}", "a\\00b\\7F\\C2\\85"),
        ("Jörg Müller", "Jörg Müller"),
        ("李", "李"),
    ] {
        assert_eq!(subject(vec![(DnType::CommonName, text(value))]), format!("CN={written}"));
    }
}

#[test]
fn strings_of_every_type_are_read() {
    for value in [
        DnValue::BmpString(BmpString::try_from("Jörg").unwrap()),
        DnValue::UniversalString(UniversalString::try_from("Jörg").unwrap()),
        text("Jörg"),
    ] {
        assert_eq!(subject(vec![(DnType::CommonName, value)]), "CN=Jörg");
    }
    let old = DnValue::TeletexString(TeletexString::try_from("old").unwrap());
    assert_eq!(subject(vec![(DnType::CommonName, old)]), "CN=old");
}

#[test]
fn serials_and_fingerprints_are_those_of_openssl() {
    for (serial, written) in [(&[1][..], "01"), (&[0x7f, 0xff], "7FFF"), (&[0x80, 0x0a], "800A")] {
        assert_eq!(*identity(Vec::new(), serial).serial, *written);
    }
    let certificate = Ca::new("ca").sign("a", &[], Kind::Ecdsa);
    let identity = Identity::of(&certificate.chain[0]).unwrap();
    assert_eq!(*identity.der, *certificate.chain[0]);
    assert!(identity.is_in_time());
    assert!(!Identity::of(&Ca::new("ca").expired("a", &[]).chain[0]).unwrap().is_in_time());
    assert_eq!(Identity::of(b"no certificate"), None);
}
