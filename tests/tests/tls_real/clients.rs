//! Clients that prove who they are: demanded or not, told to servers and to rules, and never pretended.

use tests::nginx::Nginx;
use tests::place::Place;

use crate::site::{Front, Said, authority, pki, s_client};

const HEADERS: &str = "client_cert_headers = { subject = \"X-SSL-Client-DN\", issuer = \"X-SSL-Issuer\", \
    serial = \"X-SSL-Serial\", sha256 = \"X-SSL-SHA256\", verified = \"X-SSL-Verified\", certificate = \"Client-Cert\" }";

/// What openssl says of a certificate of the run, after its `=`.
fn said_of(name: &str, arguments: &[&str]) -> String {
    let file = pki().file(&format!("{name}.crt"));
    let said = pki().openssl(&[&["x509", "-noout", "-in", &file], arguments].concat()).unwrap();
    said.trim().split_once('=').unwrap().1.to_owned()
}

fn front(place: &Place, mode: &str) -> Front {
    Front::start(place, place.at(9001), |site| {
        let auth = format!("[tls.front]\nclient_auth = {{ ca = \"corp\", mode = \"{mode}\" }}\n");
        site.more = authority() + &site.more.replace("[tls.front]\n", &auth);
        site.frontend = HEADERS.into();
        for (when, body) in [
            ("client_cert = { contains = \"CN=alice\" }", "alice"),
            ("client_cert = true", "somebody"),
            ("not = { client_cert = true }", "nobody"),
        ] {
            site.more += &format!(
                "[[frontend.front.rule]]\nwhen = {{ path = \"/rule\", {when} }}\nreturn = {{ status = 200, body = \"{body}\" }}\n"
            );
        }
    })
}

/// Asks as somebody; `none`: as nobody.
fn ask(front: &Front, who: &str, path: &str, arguments: &[&str]) -> Said {
    let pem = pki().file(&format!("{who}.pem"));
    let identity: &[&str] = if who == "none" { &[] } else { &["--cert", &pem] };
    front.try_get("a.test", path, &[identity, arguments].concat())
}

/// The values of a header, in the words that nginx heard.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

#[test]
fn a_certificate_that_is_demanded_is_checked_and_told_to_the_server() {
    let place = Place::new("tls-demanded").unwrap();
    let _nginx = Nginx::server(&place, "one", place.at(9001)).unwrap();
    let front = front(&place, "required");
    for versions in [["--tlsv1.3", "--http1.1"], ["--tlsv1.3", "--http2"], ["--tls-max", "1.2"]] {
        for who in ["none", "mallory"] {
            let said = ask(&front, who, "/who", &versions);
            assert!(said.code != 0 && !said.text.contains("one"), "{who} {versions:?}: {said:?}");
        }
        // What the client says of itself under these names is never believed.
        let lies = ["-H", "X-SSL-Client-DN: CN=root", "-H", "x_ssl_client_dn: CN=root", "-H", "client-cert: :AAAA:"];
        let said = ask(&front, "alice", "/head", &[&versions[..], &lies].concat());
        assert_eq!(said.code, 0, "{versions:?}: {said:?}\n{}", front.serve.part.tail());
        let head = said.text;
        assert_eq!(values(&head, "X-SSL-Client-DN"), ["CN=alice,O=Corp"], "{head}");
        assert_eq!(values(&head, "X-SSL-Issuer"), ["CN=intermediate,O=Corp"], "{head}");
        assert!(!head.contains("root"), "{head}");
        let plain = |value: &str| value.replace(':', "").to_ascii_lowercase();
        let shown = |name: &str| values(&head, name).into_iter().map(plain).collect::<Vec<_>>();
        assert_eq!(shown("X-SSL-Serial"), [plain(&said_of("alice", &["-serial"]))], "{head}");
        assert_eq!(shown("X-SSL-SHA256"), [plain(&said_of("alice", &["-fingerprint", "-sha256"]))], "{head}");
        assert_eq!(values(&head, "X-SSL-Verified").len(), 1, "{head}");
        // RFC 9440: the certificate's DER between colons, in base64.
        let text = pki().read("alice.crt").unwrap();
        let der: String =
            text.lines().skip_while(|line| !line.contains("BEGIN")).filter(|line| !line.contains("---")).collect();
        assert_eq!(values(&head, "Client-Cert"), [format!(":{der}:")], "{head}");
    }
    assert_eq!(ask(&front, "alice", "/rule", &[]).text, "alice");
    assert_eq!(ask(&front, "bob", "/rule", &[]).text, "somebody");
    let alert = s_client(front.tls(), "/who", &["-tls1_3"]);
    assert!(alert.complaint.contains("alert certificate required"), "{alert:?}");
}

#[test]
fn a_certificate_that_is_not_demanded_is_checked_all_the_same() {
    let place = Place::new("tls-optional").unwrap();
    let _nginx = Nginx::server(&place, "one", place.at(9001)).unwrap();
    let front = front(&place, "optional");
    for version in ["--http1.1", "--http2"] {
        assert_eq!(ask(&front, "none", "/rule", &[version]).text, "nobody", "{version}");
        assert_eq!(ask(&front, "alice", "/rule", &[version]).text, "alice", "{version}");
        let said = ask(&front, "mallory", "/rule", &[version]);
        assert!(said.code != 0 && said.text.is_empty(), "somebody else's certificate: {said:?}");
        let head = ask(&front, "none", "/head", &[version, "-H", "X-SSL-Client-DN: CN=root"]).text;
        assert!(head.starts_with("GET /head ") && !head.to_lowercase().contains("x-ssl-client-dn"), "{head}");
    }
}

#[test]
fn a_session_of_one_who_proved_nothing_is_not_resumed_where_proof_is_demanded() {
    let place = Place::new("tls-smuggled-session").unwrap();
    let _nginx = Nginx::server(&place, "one", place.at(9001)).unwrap();
    let strict = place.at(8444);
    let front = Front::start(&place, place.at(9001), |site| {
        site.more += &format!(
            "{}[tls.strict]\ncertificates = [\"default\", \"a\"]\nclient_auth = {{ ca = \"corp\", mode = \"required\" }}\n\
            [frontend.strict]\nmode = \"http\"\nbind = {{ to = \"{strict}\", tls = \"strict\" }}\ndefault_backend = \"back\"\n",
            authority()
        );
    });
    let session = place.path("session").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let fixed = [version, "-servername", "a.test"];
        let first = s_client(front.tls(), "/who", &[&fixed[..], &["-sess_out", &session]].concat());
        assert!(first.text.contains("\r\n\r\none\n"), "{version}: {first:?}");
        let again = s_client(front.tls(), "/who", &[&fixed[..], &["-sess_in", &session]].concat());
        assert!(again.text.contains("Reused, "), "where it comes from it is resumed: {version}: {again:?}");
        let smuggled = s_client(strict, "/who", &[&fixed[..], &["-sess_in", &session]].concat());
        assert!(!smuggled.text.contains("HTTP/1.1 200"), "{version}: {smuggled:?}");
    }
}
