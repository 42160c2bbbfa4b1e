//! `lbnode pair`: identities of the sync channel. All but `rotate` work on the files, whether an agent runs or not,
//! and doing them twice does nothing the second time.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sync::pairing::{BadName, Change, Invitation, Pairing, PairingError, check_name};

use super::{Exit, Json, complain, print, print_json, remote};
use crate::config::{self, ConfigError, ControlConfig};
use crate::control::{Request, Response};

/// What can be done with a pair.
#[derive(Debug, Subcommand)]
pub(super) enum PairCommand {
    /// Make this node's identity, if it has none, and print its invitation
    #[command(after_help = "Example:\n  lbnode pair init")]
    Init(Common),
    /// Trust the other node, by the invitation that `pair init` printed there
    #[command(after_help = "\
Examples:
  lbnode pair join b:3f1c…                 the whole line, 64 hex digits
  lbnode pair join --force b:3f1c…         instead of the peer that is trusted now")]
    Join {
        /// NODE:PIN
        invitation: Invitation,
        /// Also if another peer, or another certificate of it, is trusted now
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Who this node is and whom it trusts; 1 if it is not paired
    #[command(after_help = "Example:\n  lbnode pair show --json | jq -r .invitation")]
    Show(Common),
    /// Give this node a new identity, which the peer is told over the running session
    #[command(after_help = "Example:\n  lbnode pair rotate")]
    Rotate(Common),
}

/// What each of them takes.
#[derive(Args, Debug)]
pub(super) struct Common {
    /// The node file
    #[arg(long, default_value = "/etc/lbnode/node.toml")]
    config: PathBuf,
    #[command(flatten)]
    json: Json,
}

/// Why a command did nothing.
#[derive(Debug, thiserror::Error)]
enum PairError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the node file names this node as it cannot be called on the channel")]
    Name(#[source] BadName),
    #[error("both nodes are called {0}; give one of them another name in its node file, and pair them then")]
    SameName(String),
    #[error(transparent)]
    Pairing(#[from] PairingError),
}

impl PairError {
    fn exit(&self) -> Exit {
        match self {
            PairError::Config(_) | PairError::Name(_) => Exit::BadConfig,
            PairError::Pairing(PairingError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            PairError::SameName(_) | PairError::Pairing(_) => Exit::Degraded,
        }
    }
}

/// Does one of them; `socket` is the agent's.
pub(super) fn pair(command: PairCommand, socket: &Path) -> Exit {
    let done = match command {
        PairCommand::Init(Common { config, json }) => {
            init(&config).map(|(local, change)| local.tell(json, change, &local.after_init(change)))
        }
        PairCommand::Join { invitation, force, common: Common { config, json } } => {
            join(&config, invitation, force).map(|(local, change)| local.tell(json, change, &local.after_join(change)))
        }
        PairCommand::Show(Common { config, json }) => Local::open(&config).map(|local| {
            local.tell(json, Change::Already, &local.all());
            if local.is_paired() { Exit::Fine } else { Exit::Degraded }
        }),
        PairCommand::Rotate(Common { config, json }) => return rotate(socket, &config, json),
    };
    done.unwrap_or_else(|error| {
        complain(&error);
        error.exit()
    })
}

fn init(config: &Path) -> Result<(Local, Change), PairError> {
    let mut local = Local::open(config)?;
    let change = local.init()?;
    Ok((local, change))
}

fn join(config: &Path, invitation: Invitation, force: bool) -> Result<(Local, Change), PairError> {
    let mut local = Local::open(config)?;
    if local.pairing.identity().is_some_and(|own| own.pin() == invitation.pin()) {
        return Err(PairingError::Own.into());
    }
    if invitation.node() == local.node {
        return Err(PairError::SameName(local.node));
    }
    local.init()?;
    let change = match force {
        true => local.pairing.trust_instead(invitation)?,
        false => local.pairing.trust(invitation)?,
    };
    Ok((local, change))
}

/// The agent does it: the peer has to be told first.
fn rotate(socket: &Path, config: &Path, json: Json) -> Exit {
    // What was said on the command line counts more than the node file.
    let named = (socket == Path::new(ControlConfig::SOCKET)).then(|| config::load_node(config));
    let socket = match named {
        Some(Ok(node)) => node.control.socket,
        Some(Err(error)) => {
            complain(&error);
            return Exit::BadConfig;
        }
        None => socket.to_owned(),
    };
    remote::ask(&socket, &Request::PairRotate, remote::CHANGE, |response| {
        let Response::PairRotated { pin } = response else { return Err(response) };
        if json.json {
            print_json(&json!({ "pin": pin, "changed": true }));
        } else {
            print(format_args!("this node has a new identity, and its peer accepts it: {pin}"));
        }
        Ok(Exit::Fine)
    })
}

/// This node, as its files have it.
struct Local {
    node: String,
    pairing: Pairing,
}

impl Local {
    fn open(config: &Path) -> Result<Local, PairError> {
        let node = config::load_node(config)?;
        check_name(&node.name).map_err(PairError::Name)?;
        let pairing = Pairing::open(&node.state_dir.join("identity"))?;
        Ok(Local { node: node.name, pairing })
    }

    fn init(&mut self) -> Result<Change, PairError> {
        if self.pairing.identity().is_some() {
            return Ok(Change::Already);
        }
        self.pairing.create(&self.node)?;
        Ok(Change::Done)
    }

    fn invitation(&self) -> Option<String> {
        Some(self.pairing.invitation(&self.node)?.ok()?.to_string())
    }

    fn is_paired(&self) -> bool {
        self.pairing.identity().is_some() && self.pairing.peer().is_some()
    }

    fn tell(&self, Json { json }: Json, change: Change, words: &str) -> Exit {
        if json {
            print_json(&self.as_json(change));
        } else {
            print(words);
        }
        Exit::Fine
    }

    fn after_init(&self, change: Change) -> String {
        let has = match change {
            Change::Done => "this node has an identity now",
            Change::Already => "this node has an identity already",
        };
        format!("{has}; {}", self.what_the_other_node_needs())
    }

    fn after_join(&self, change: Change) -> String {
        let when = match change {
            Change::Done => "now",
            Change::Already => "already",
        };
        let peer = self.pairing.peer().map(ToString::to_string).unwrap_or_default();
        format!("this node trusts {peer} {when}; {}", self.what_the_other_node_needs())
    }

    fn what_the_other_node_needs(&self) -> String {
        let invitation = self.invitation().unwrap_or_default();
        format!("unless it was done, run on the other node:\n  lbnode pair join {invitation}")
    }

    fn all(&self) -> String {
        let mut lines = vec![format!("node        {}", self.node)];
        match self.pairing.identity() {
            Some(own) => lines.push(format!("pin         {}", own.pin())),
            None => lines.push("pin         none yet: lbnode pair init".into()),
        }
        lines.extend(self.invitation().map(|invitation| format!("invitation  {invitation}")));
        match self.pairing.peer() {
            Some(peer) => {
                lines.push(format!("peer        {}", peer.name));
                lines.extend(peer.pins.iter().map(|pin| format!("accepted    {pin}")));
            }
            None => lines.push("peer        none yet: lbnode pair join, with the other node's invitation".into()),
        }
        lines.join("\n")
    }

    fn as_json(&self, change: Change) -> Value {
        let peer = self.pairing.peer().map(|peer| {
            let pins: Vec<String> = peer.pins.iter().map(ToString::to_string).collect();
            json!({ "name": peer.name, "pins": pins })
        });
        json!({
            "node": self.node,
            "pin": self.pairing.identity().map(|own| own.pin().to_string()),
            "invitation": self.invitation(),
            "peer": peer,
            "changed": change == Change::Done,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two node files; they go with the test.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let path = std::env::temp_dir().join(format!("lbnode-pair-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).expect("a temporary directory");
            Place(path)
        }

        fn node(&self, name: &str) -> PathBuf {
            let file = self.0.join(format!("{name}.toml"));
            let text = format!(
                "name = \"{name}\"\nstate_dir = \"state-{name}\"\nbootstrap = \"c\"\n\
                 [vrrp]\ninterface = \"eth0\"\npriority = 100\n"
            );
            std::fs::write(&file, text).expect("writable");
            file
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn invitation(local: &Local) -> Invitation {
        local.invitation().expect("there is one").parse().expect("ours")
    }

    #[test]
    fn two_nodes_are_paired_and_doing_it_again_changes_nothing() {
        let place = Place::new("again");
        let (a, b) = (place.node("a"), place.node("b"));
        let (first, change) = init(&a).expect("a new identity");
        assert_eq!(change, Change::Done);
        let from_a = invitation(&first);
        assert!(first.after_init(change).contains(&format!("lbnode pair join {from_a}")));
        assert!(!first.is_paired() && first.all().contains("none yet"));

        // The other node needs no `init`.
        let (second, change) = join(&b, from_a.clone(), false).expect("a good invitation");
        assert_eq!(change, Change::Done);
        let from_b = invitation(&second);
        join(&a, from_b.clone(), false).expect("a good invitation");
        for _ in 0..2 {
            let (local, change) = init(&a).expect("there");
            assert_eq!((change, invitation(&local)), (Change::Already, from_a.clone()));
            let (local, change) = join(&a, from_b.clone(), false).expect("there");
            assert_eq!(change, Change::Already);
            let json = local.as_json(change);
            assert_eq!(
                (&json["node"], &json["peer"]["name"], &json["changed"]),
                (&"a".into(), &"b".into(), &false.into())
            );
            assert_eq!(json["peer"]["pins"][0], from_b.pin().to_string());
            assert!(local.is_paired() && local.all().contains(&format!("accepted    {}", from_b.pin())));
        }
    }

    #[test]
    fn what_makes_no_pair_is_refused_and_nothing_is_written() {
        let place = Place::new("refused");
        let (a, b) = (place.node("a"), place.node("b"));
        let own = invitation(&init(&a).expect("a new identity").0);
        let other = invitation(&init(&b).expect("a new identity").0);
        let refused = |invitation: &Invitation, force| match join(&a, invitation.clone(), force) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error,
        };
        assert!(refused(&own, true).to_string().contains("this node's own"));
        let named_alike: Invitation = format!("a:{}", other.pin()).parse().expect("well formed");
        assert!(refused(&named_alike, false).to_string().contains("both nodes are called a"));
        assert!(!Local::open(&a).expect("readable").is_paired());

        join(&a, other, false).expect("a good invitation");
        let another: Invitation =
            format!("c:{}", own.pin().to_string().replace('0', "1")).parse().expect("well formed");
        let error = refused(&another, false);
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(error.exit() as u8, Exit::Degraded as u8);
        let (local, change) = join(&a, another, true).expect("asked for");
        assert_eq!((change, local.pairing.peer().expect("paired").name.as_str()), (Change::Done, "c"));
    }

    #[test]
    fn a_node_file_that_cannot_be_used_is_a_bad_configuration() {
        let place = Place::new("config");
        let file = place.node("a b");
        for path in [file, place.0.join("missing.toml")] {
            let error = init(&path).err().expect("no identity");
            assert_eq!(error.exit() as u8, Exit::BadConfig as u8, "{error}");
        }
    }
}
