//! What an apply keeps, and what it makes anew.

use super::*;

fn applied(plan: &Plan, (old, before): (&Plan, &Configs)) -> Configs {
    plan.validate().expect("the plan is valid");
    Configs::build(plan, Some((old, before))).unwrap()
}

/// A plan with two profiles, each with a certificate of its own, and a verified backend of two servers.
fn whole(ca: &Ca) -> Plan {
    let mut plan = plan(vec![ca.sign("a", &["a.test"], Kind::Ecdsa), ca.sign("b", &["b.test"], Kind::Ecdsa)]);
    plan.tls = vec![profile("one", &[0]), profile("two", &[1])];
    plan.authorities = vec![ca.authority()];
    plan.backends = vec![backend(verified(), vec![server("a", Some("a.corp")), server("b", Some("b.corp"))])];
    plan
}

/// Which of profiles one and two and servers a and b are as they were.
fn kept(before: &Configs, after: &Configs) -> [bool; 4] {
    let bind = |index| Arc::ptr_eq(before.bind(index), after.bind(index));
    let server = |index| {
        let config = |configs: &Configs| Arc::clone(&configs.server(0, index).unwrap().config);
        Arc::ptr_eq(&config(before), &config(after))
    };
    [bind(0), bind(1), server(0), server(1)]
}

#[test]
fn what_did_not_change_is_kept_and_nothing_else() {
    let ca = Ca::new("ca");
    let old = whole(&ca);
    let before = built(&old);
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Plan), [bool; 4]);
    let cases: [Case<'_>; 12] = [
        ("nothing", &|_| {}, [true; 4]),
        ("revision", &|plan| plan.revision += 1, [true; 4]),
        (
            "a certificate",
            &|plan| plan.certificates[1] = ca.sign("b", &["b.test"], Kind::Ecdsa),
            [true, false, true, true],
        ),
        ("a staple", &|plan| plan.certificates[0].ocsp.push(1), [false, true, true, true]),
        ("a version", &|plan| plan.tls[0].min_version = TlsVersion::V13, [false, true, true, true]),
        ("the tickets", &|plan| plan.tls[1].tickets = false, [true, false, true, true]),
        (
            "client_auth",
            &|plan| plan.tls[0].client_auth = Some(ClientAuth { authority: 0, required: false }),
            [false, true, true, true],
        ),
        ("the authority", &|plan| plan.authorities[0] = Ca::new("ca").authority(), [true, true, false, false]),
        ("a server's address", &|plan| plan.backends[0].servers[0].address.set_port(8443), [true, true, false, true]),
        ("a server's name", &|plan| plan.backends[0].servers[1].tls_name = None, [true, true, true, false]),
        ("a server's weight", &|plan| plan.backends[0].servers[1].weight = 9, [true; 4]),
        (
            "the backend's protocols",
            &|plan| plan.backends[0].tls.as_mut().unwrap().alpn = vec!["h2".into()],
            [true, true, false, false],
        ),
    ];
    for (what, change, expected) in cases {
        let mut new = old.clone();
        change(&mut new);
        assert_eq!(kept(&before, &applied(&new, (&old, &before))), expected, "{what}");
    }
}

#[test]
fn a_profile_is_made_anew_with_the_authority_of_its_clients() {
    let ca = Ca::new("ca");
    let mut old = whole(&ca);
    old.authorities.push(Ca::new("clients").authority());
    old.authorities[1].name = "clients".into();
    old.tls[0].client_auth = Some(ClientAuth { authority: 1, required: true });
    let before = built(&old);
    let mut new = old.clone();
    new.authorities[1].certificates = Ca::new("clients").authority().certificates;
    assert_eq!(kept(&before, &applied(&new, (&old, &before))), [false, true, true, true]);
}

#[test]
fn what_only_moved_is_kept() {
    let ca = Ca::new("ca");
    let mut old = whole(&ca);
    old.tls[0].client_auth = Some(ClientAuth { authority: 0, required: true });
    old.backends[0].tls.as_mut().unwrap().certificate = Some(1);
    let before = built(&old);
    let mut new = old.clone();
    new.certificates.insert(0, ca.sign("first", &[], Kind::Ecdsa));
    new.authorities.insert(0, Authority { name: "first".into(), ..Ca::new("first").authority() });
    new.tls[0].certificates = vec![1];
    new.tls[0].client_auth = Some(ClientAuth { authority: 1, required: true });
    new.tls[1].certificates = vec![2];
    new.backends[0].tls = Some(ServerTls { verify: Verify::Authority(1), certificate: Some(2), ..verified() });
    assert_eq!(kept(&before, &applied(&new, (&old, &before))), [true; 4]);
}

#[test]
fn a_key_is_loaded_once_for_all_that_show_it_and_for_all_plans() {
    let ca = Ca::new("ca");
    let old = whole(&ca);
    let before = built(&old);
    let mut new = old.clone();
    new.certificates.swap(0, 1);
    let after = applied(&new, (&old, &before));
    assert!(Arc::ptr_eq(&before.certificates[0], &after.certificates[1]));
    assert!(Arc::ptr_eq(&before.certificates[1], &after.certificates[0]));
}

#[test]
fn a_plan_that_is_refused_leaves_the_sessions_of_the_one_before() {
    let ca = Ca::new("ca");
    let old = whole(&ca);
    let before = built(&old);
    let mut new = old.clone();
    new.tls.clear();
    new.backends[0].servers[1].tls_name = Some("no name".into());
    assert!(Configs::build(&new, Some((&old, &before))).is_err());
    let mut client = client(&ca);
    client.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    let met = |configs: &Configs| shake(Arc::clone(&client), dns("a.test"), configs.bind(0)).unwrap().facts().resumed;
    assert!(!met(&before));
    let mut changed = old.clone();
    changed.tls[0].alpn = vec!["h2".into()];
    assert!(met(&applied(&changed, (&old, &before))));
}
