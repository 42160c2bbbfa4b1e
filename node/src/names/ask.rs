//! Asks name servers, and the hosts file before them, what a name stands for.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

/// For one question to one name server.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Ready to be asked; clones share their connections.
#[derive(Clone)]
pub(super) struct Resolver(TokioResolver);

impl Resolver {
    /// That asks these; none: as the system's resolv.conf says.
    ///
    /// # Errors
    /// In words.
    pub(super) fn new(nameservers: &[SocketAddr]) -> Result<Resolver, String> {
        let mut builder = if nameservers.is_empty() {
            TokioResolver::builder_tokio()
                .map_err(|error| format!("the system's resolv.conf can't be used: {error}"))?
        } else {
            let servers = nameservers.iter().map(|address| {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                server.connections.iter_mut().for_each(|connection| connection.port = address.port());
                server
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = TIMEOUT;
        options.attempts = 2;
        // Who asks knows how old its answers are.
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        options.use_hosts_file = ResolveHosts::Always;
        builder.build().map(Resolver).map_err(|error| error.to_string())
    }

    /// The addresses of a name, and how long they hold.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn ask(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), String> {
        match self.0.lookup_ip(name).await {
            Ok(found) => {
                let ttl = found.valid_until().saturating_duration_since(Instant::now());
                Ok((found.iter().collect(), ttl))
            }
            Err(error) if error.is_nx_domain() => Err("there is no such name".into()),
            Err(error) if error.is_no_records_found() => Err("the name has no addresses".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}
