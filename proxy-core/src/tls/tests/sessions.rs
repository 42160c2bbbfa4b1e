//! Who may resume which session.

use std::time::UNIX_EPOCH;

use rustls::client::Resumption;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use super::*;

/// A client that remembers its sessions.
fn returning(mut client: ClientConfig) -> Arc<ClientConfig> {
    client.resumption = Resumption::in_memory_sessions(64);
    Arc::new(client)
}

/// Whether a client that comes again resumes its session.
fn resumes(client: &Arc<ClientConfig>, configs: &Configs, profile: usize) -> bool {
    shake(Arc::clone(client), dns("a.test"), configs.bind(profile)).unwrap().facts().resumed
}

/// A plan whose profile speaks this version.
fn plan_of(version: TlsVersion, certificates: Vec<Certificate>) -> Plan {
    let mut plan = plan(certificates);
    plan.tls[0] = of_version(version, plan.tls[0].clone());
    plan
}

/// `plan` in place of what was built of `before`.
fn applied(plan: &Plan, (old, before): (&Plan, &Configs)) -> Configs {
    Configs::build(plan, Some((old, before))).unwrap()
}

#[test]
fn sessions_are_resumed_unless_the_profile_has_no_tickets() {
    let ca = Ca::new("ca");
    for version in VERSIONS {
        let mut plan = plan_of(version, vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
        let (configs, client) = (built(&plan), returning(client(&ca)));
        assert!(!resumes(&client, &configs, 0));
        assert!(resumes(&client, &configs, 0) && resumes(&client, &configs, 0), "{version:?}");
        plan.tls[0].tickets = false;
        let (configs, client) = (built(&plan), returning(super::client(&ca)));
        assert!(!resumes(&client, &configs, 0) && !resumes(&client, &configs, 0), "{version:?}");
    }
}

#[test]
fn an_apply_with_other_certificates_costs_nobody_a_session() {
    let ca = Ca::new("ca");
    for version in VERSIONS {
        let old = plan_of(version, vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
        let (before, client) = (built(&old), returning(client(&ca)));
        assert!(!resumes(&client, &before, 0));
        let mut new =
            plan_of(version, vec![ca.sign("a", &["a.test"], Kind::Ecdsa), ca.sign("b", &["b.test"], Kind::Ecdsa)]);
        new.tls[0].alpn = vec!["h2".into()];
        new.tls.insert(0, profile("other", &[0]));
        let after = applied(&new, (&old, &before));
        assert!(resumes(&client, &after, 1), "{version:?}");
    }
}

#[test]
fn a_session_is_good_for_its_own_profile_alone() {
    let ca = Ca::new("ca");
    for version in VERSIONS {
        let mut plan = plan_of(version, vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
        plan.tls.push(Tls { name: "other".into(), ..plan.tls[0].clone() });
        let (configs, client) = (built(&plan), returning(client(&ca)));
        assert!(!resumes(&client, &configs, 0));
        assert!(!resumes(&client, &configs, 1), "{version:?}");
    }
}

#[test]
fn a_session_without_a_certificate_is_no_way_around_a_profile_that_has_come_to_demand_one() {
    let (ca, clients) = (Ca::new("ca"), Ca::new("clients"));
    for version in VERSIONS {
        for before in [None, Some(ClientAuth { authority: 0, required: false })] {
            let mut old = plan_of(version, vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
            old.authorities = vec![clients.authority()];
            old.tls[0].client_auth = before;
            let (configs, client) = (built(&old), returning(client(&ca)));
            assert!(!resumes(&client, &configs, 0));
            assert!(resumes(&client, &configs, 0));
            let mut new = old.clone();
            new.tls[0].client_auth = Some(ClientAuth { authority: 0, required: true });
            let after = applied(&new, (&old, &configs));
            let met = shake(client, dns("a.test"), after.bind(0));
            assert!(matches!(met, Err(Refused::ByServer(_))), "{version:?}");
        }
    }
}

#[test]
fn a_resumed_session_is_of_who_began_it_until_the_authority_changes() {
    let (ca, clients) = (Ca::new("ca"), Ca::new("clients"));
    for version in VERSIONS {
        let mut old = plan_of(version, vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
        old.authorities = vec![clients.authority()];
        old.tls[0].client_auth = Some(ClientAuth { authority: 0, required: true });
        let client = returning(client_with(&ca, clients.sign("somebody", &[], Kind::Ecdsa)));
        let before = built(&old);
        assert!(!resumes(&client, &before, 0));
        let facts = shake(Arc::clone(&client), dns("a.test"), before.bind(0)).unwrap().facts();
        assert!(facts.resumed);
        assert_eq!(facts.client.unwrap().subject, "CN=somebody".into());

        let mut new = old.clone();
        new.authorities = vec![Ca::new("clients").authority()];
        let after = applied(&new, (&old, &before));
        let met = shake(client, dns("a.test"), after.bind(0));
        assert!(matches!(met, Err(Refused::ByServer(_))), "{version:?}");
    }
}

#[test]
fn a_session_does_not_outlive_the_certificate_of_its_client() {
    /// The time at which the certificate was good.
    #[derive(Debug)]
    struct Then;
    impl TimeProvider for Then {
        fn current_time(&self) -> Option<UnixTime> {
            let then = std::time::SystemTime::from(date_time_ymd(2001, 6, 1));
            Some(UnixTime::since_unix_epoch(then.duration_since(UNIX_EPOCH).unwrap()))
        }
    }
    let (ca, clients) = (Ca::new("ca"), Ca::new("clients"));
    let client = returning(client_with(&ca, clients.expired("late", &[])));
    let mut plan = plan(vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
    plan.authorities = vec![clients.authority()];
    plan.tls[0].client_auth = Some(ClientAuth { authority: 0, required: true });
    let configs = built(&plan);
    let mut earlier = ServerConfig::clone(configs.bind(0));
    earlier.time_provider = Arc::new(Then);
    let earlier = Arc::new(earlier);
    assert!(shake(Arc::clone(&client), dns("a.test"), &earlier).is_ok());
    let facts = shake(client, dns("a.test"), &earlier).unwrap().facts();
    assert!(facts.resumed && facts.client.is_none());
    assert!(!admits(&plan.tls[0], &facts));
}

#[test]
fn keys_that_no_profile_has_a_use_for_are_forgotten() {
    let ca = Ca::new("ca");
    let old = plan(vec![ca.sign("a", &["a.test"], Kind::Ecdsa)]);
    let (before, client) = (built(&old), returning(client(&ca)));
    assert!(!resumes(&client, &before, 0));
    let mut new = old.clone();
    new.tls[0].name = "renamed".into();
    let after = applied(&new, (&old, &before));
    let back = applied(&old, (&new, &after));
    assert!(!resumes(&client, &back, 0));
}
