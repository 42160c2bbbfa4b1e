//! What can be used, in every form that it comes in.

use std::time::{Duration, SystemTime};

use node::certificates::{File, Parts, Roots, Source, assemble};

use super::pki::Pki;
use super::{cluster, good, text, warnings};

/// The names of the files whose certificates are shown, the first one first.
fn shown(pki: &Pki, table: &str) -> Vec<&'static str> {
    let cluster = good(pki, table);
    let known = ["leaf", "lower", "upper", "root"].map(|name| (name, pki.der(name)));
    let name = |der: &Vec<u8>| known.iter().find(|(_, known)| known == der).map_or("another one", |(name, _)| name);
    cluster.plan.certificates[0].chain.iter().map(name).collect()
}

#[test]
fn a_bundle_in_any_order_becomes_the_chain_without_its_root() {
    let pki = Pki::new("order");
    for files in [
        ["leaf.pem", "leaf.key", "lower.pem", "upper.pem", "root.pem"],
        ["root.pem", "upper.pem", "lower.pem", "leaf.pem", "leaf.key"],
        ["upper.pem", "leaf.key", "root.pem", "leaf.pem", "lower.pem"],
    ] {
        pki.join("bundle.pem", &files);
        assert_eq!(shown(&pki, "file = \"DIR/bundle.pem\""), ["leaf", "lower", "upper"], "{files:?}");
        let cluster = good(&pki, "file = \"DIR/bundle.pem\"");
        assert_eq!(warnings(&pki, &cluster, 0), [""; 0]);
    }
}

#[test]
fn an_intermediate_that_comes_later_completes_the_chain() {
    let pki = Pki::new("later");
    pki.join("bundle.pem", &["leaf.pem", "leaf.key"]);
    let cluster = good(&pki, "file = \"DIR/bundle.pem\"");
    let missing = "certificate `c`: the chain ends with CN=www.example.test, whose issuer CN=Lower CA is missing (it can be got at \
                   http://ca.test/lower.crt): if that is an intermediate, clients refuse the certificate; add it to the file, name \
                   it with `chain`, or `lbnode cert import` it. If it is a root, name it in a [ca.NAME]";
    assert_eq!(warnings(&pki, &cluster, 0), [missing]);
    pki.join("chain.pem", &["upper.pem"]);
    let with_chain = "file = \"DIR/bundle.pem\"\nchain = \"DIR/chain.pem\"";
    let cluster = good(&pki, with_chain);
    assert_eq!(
        warnings(&pki, &cluster, 0),
        [missing, "certificate `c`: the certificate of CN=Upper CA is no part of the chain and not sent"]
    );
    pki.join("chain.pem", &["upper.pem", "lower.pem"]);
    assert_eq!(shown(&pki, with_chain), ["leaf", "lower", "upper"]);
    assert_eq!(warnings(&pki, &good(&pki, with_chain), 0), [""; 0]);
    // Named twice it is sent once.
    pki.join("bundle.pem", &["leaf.pem", "leaf.key", "lower.pem"]);
    assert_eq!(shown(&pki, with_chain), ["leaf", "lower", "upper"]);
    assert_eq!(warnings(&pki, &good(&pki, with_chain), 0), [""; 0]);
}

#[test]
fn separate_files_and_every_form_of_key_are_the_same_certificate() {
    let pki = Pki::new("forms");
    pki.join("chain.pem", &["lower.pem", "upper.pem"]);
    pki.openssl("ec -in leaf.key -out sec1.key");
    pki.openssl("ecparam -name prime256v1 -out parameters");
    pki.join("parameters.key", &["parameters", "sec1.key"]);
    pki.openssl("pkcs8 -topk8 -nocrypt -in leaf.key -outform pem -out pkcs8.key");
    for key in ["leaf.key", "sec1.key", "pkcs8.key", "parameters.key"] {
        let table = format!("cert = \"DIR/leaf.pem\"\nkey = \"DIR/{key}\"\nchain = \"DIR/chain.pem\"");
        assert_eq!(shown(&pki, &table), ["leaf", "lower", "upper"], "{key}");
    }
    // As Windows writes it, and as some editors do.
    let text = String::from_utf8([pki.read("leaf.pem"), pki.read("leaf.key")].concat()).unwrap();
    pki.write("windows.pem", format!("\u{feff}{}", text.replace('\n', "\r\n")));
    assert_eq!(shown(&pki, "file = \"DIR/windows.pem\""), ["leaf"]);
}

#[test]
fn every_kind_of_pfx_is_read() {
    let pki = Pki::new("pfx");
    pki.join("chain.pem", &["upper.pem", "lower.pem"]);
    pki.write("password", "geheim€\nand more\n");
    let made = [
        ("modern", ""),
        ("legacy", "-legacy"),
        ("triple-des", "-keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1"),
        ("many", "-iter 100000 -macalg sha512"),
        ("plain-certificates", "-certpbe NONE"),
    ];
    for (name, how) in made {
        pki.openssl(&format!(
            "pkcs12 -export -in leaf.pem -inkey leaf.key -certfile chain.pem -passout file:password {how} -out {name}.pfx"
        ));
        let table = format!("pfx = \"DIR/{name}.pfx\"\npassword_file = \"DIR/password\"");
        assert_eq!(shown(&pki, &table), ["leaf", "lower", "upper"], "{name}");
    }
    let written = "pfx = \"DIR/modern.pfx\"\npassword = \"geheim€\"";
    assert_eq!(shown(&pki, written), ["leaf", "lower", "upper"]);
    pki.openssl("pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass: -out empty.pfx");
    assert_eq!(shown(&pki, "pfx = \"DIR/empty.pfx\""), ["leaf"]);
    assert_eq!(shown(&pki, "pfx = \"DIR/empty.pfx\"\nchain = \"DIR/chain.pem\""), ["leaf", "lower", "upper"]);
}

#[test]
fn rsa_and_other_keys_are_told_apart() {
    let pki = Pki::new("kinds");
    for (kind, said) in [
        ("ec", "EC P-256"),
        ("curve:P-384", "EC P-384"),
        ("curve:P-521", "EC P-521"),
        ("rsa:2048", "RSA 2048 bits"),
        ("ed25519", "Ed25519"),
    ] {
        pki.leaf("kind", "lower", kind, 400);
        pki.join("bundle.pem", &["kind.pem", "kind.key", "lower.pem", "upper.pem"]);
        let cluster = good(&pki, "file = \"DIR/bundle.pem\"");
        let known = &cluster.certificates[0].known;
        assert_eq!(known.leaf.key.to_string(), said);
        assert_eq!(known.leaf.names, ["www.example.test", "*.example.test", "192.0.2.7"]);
        assert_eq!(known.intermediates, ["CN=Lower CA", "CN=Upper CA"]);
    }
}

#[test]
fn of_two_issuers_of_one_name_the_one_that_signed_is_taken() {
    let pki = Pki::new("renewed");
    let extensions = "basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n";
    pki.issue("lower", "/CN=Lower CA", "upper", "ec", 100, extensions);
    pki.issue(
        "leaf",
        "/CN=www.example.test",
        "lower",
        "ec",
        90,
        "subjectAltName=DNS:a.test\nauthorityKeyIdentifier=none\n",
    );
    // The same name with a new key, valid longer.
    pki.issue("newer", "/CN=Lower CA", "upper", "ec", 900, extensions);
    pki.join("bundle.pem", &["newer.pem", "leaf.pem", "leaf.key", "lower.pem", "upper.pem"]);
    assert_eq!(shown(&pki, "file = \"DIR/bundle.pem\""), ["leaf", "lower", "upper"]);
}

#[test]
fn what_was_kept_is_what_runs_and_a_renewed_file_is_another_revision() {
    let pki = Pki::new("kept");
    pki.openssl("pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass:x -out c.pfx");
    let table = "pfx = \"DIR/c.pfx\"\npassword = \"x\"";
    let first = good(&pki, table);
    assert_eq!(first.files.len(), 2, "the PFX and the root");
    let shown = format!("{:?} {:?}", first.files, first.plan.certificates[0].key);
    assert!(!shown.contains("[48, "), "bytes of a file are shown: {shown}");
    let kept =
        node::config::parse_kept("c", &text(&pki, table), &first.files).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(kept, first);
    pki.leaf("leaf", "lower", "ec", 300);
    pki.openssl("pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass:x -out c.pfx");
    let second = good(&pki, table);
    assert_ne!(first.files, second.files);
    assert_ne!(first.plan, second.plan);
    std::fs::remove_file(pki.path("c.pfx")).unwrap();
    assert!(cluster(&pki, table).is_err());
}

#[test]
fn a_certificate_is_warned_of_before_and_after_its_end() {
    let pki = Pki::new("times");
    pki.join("bundle.pem", &["leaf.pem", "leaf.key", "lower.pem", "upper.pem"]);
    let cluster = good(&pki, "file = \"DIR/bundle.pem\"");
    assert_eq!(warnings(&pki, &cluster, 385), [""; 0]);
    let soon = warnings(&pki, &cluster, 389);
    assert!(
        soon.len() == 1
            && soon[0].starts_with("certificate `c`: the certificate of CN=www.example.test expires in 10 days, on "),
        "{soon:?}"
    );
    let late = warnings(&pki, &cluster, 401);
    assert!(
        late.len() == 1 && late[0].starts_with("certificate `c`: the certificate of CN=www.example.test expired on "),
        "{late:?}"
    );
    let early = cluster.warnings(SystemTime::now() - Duration::from_secs(86_400));
    assert!(early.iter().any(|text| text.contains("CN=www.example.test is not valid before ")), "{early:?}");
    // Expired when it is read: it is served all the same.
    pki.openssl("x509 -req -in leaf.csr -CA lower.pem -CAkey lower.key -days -1 -extfile extensions -out leaf.pem");
    pki.join("bundle.pem", &["leaf.pem", "leaf.key", "lower.pem", "upper.pem"]);
    let expired = good(&pki, "file = \"DIR/bundle.pem\"");
    assert!(warnings(&pki, &expired, 0)[0].contains("expired on "), "{:?}", warnings(&pki, &expired, 0));
}

#[test]
fn an_ocsp_response_is_stapled_while_it_is_good() {
    let pki = Pki::new("ocsp");
    pki.join("bundle.pem", &["leaf.pem", "leaf.key", "lower.pem", "upper.pem"]);
    let serial = good(&pki, "file = \"DIR/bundle.pem\"").certificates[0].known.leaf.serial.to_uppercase();
    let respond = |state: &str, days: &str| {
        pki.write("index", state.replace("SERIAL", &serial));
        pki.openssl("ocsp -issuer lower.pem -cert leaf.pem -reqout request");
        pki.openssl(&format!(
            "ocsp -index index -CA lower.pem -rsigner lower.pem -rkey lower.key -reqin request -respout response {days}"
        ));
    };
    let valid = "V\t360101000000Z\t\tSERIAL\tunknown\t/CN=www.example.test\n";
    let table = "file = \"DIR/bundle.pem\"\nocsp = \"DIR/response\"";
    respond(valid, "-ndays 7");
    let fresh = good(&pki, table);
    assert_eq!(fresh.plan.certificates[0].ocsp, pki.read("response"));
    assert_eq!(warnings(&pki, &fresh, 0), [""; 0]);
    let stale = warnings(&pki, &fresh, 8);
    assert!(stale.len() == 1 && stale[0].contains("the OCSP response of response was good until "), "{stale:?}");
    respond("R\t360101000000Z\t260101000000Z\tSERIAL\tunknown\t/CN=www.example.test\n", "-ndays 7");
    assert!(warnings(&pki, &good(&pki, table), 0)[0].contains("says that the certificate is revoked"));
    respond(valid, "-ndays 7");
    let ocsp = pki.read("response");
    let bundle = pki.read("bundle.pem");
    let at = |days: i64| {
        let parts = Parts {
            source: Source::Bundle(File { path: "b", bytes: &bundle }),
            chain: None,
            imported: &[],
            ocsp: Some(File { path: "o", bytes: &ocsp }),
            roots: &Roots::default(),
        };
        assemble(&parts, now() + days * 86_400).unwrap().ocsp
    };
    assert_eq!((at(6), at(8)), (ocsp.clone(), Vec::new()), "a stale one is not stapled");
}

fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed()
}
