//! To which network a start belongs, by what is kept and what is given: checked before anything is changed.

use crate::config::Config;
use crate::datadir::files::DataDir;
use crate::datadir::network::{Invite, Join, Network};
use crate::error::Failure;

/// The network the data directory belongs to; else one founded here, or a provisional one with something to
/// join.
pub(crate) fn network(files: &DataDir, config: &Config) -> Result<Network, Failure> {
    let kept = files.network()?;
    if let Some(network) = kept.as_ref().filter(|network| network.adopted) {
        check_member(network, config)?;
        return Ok(network.clone());
    }
    check_joins(config)?;
    let (unit, r) = (config.settings.founding_unit(), config.settings.successors);
    let network = match (config.join.is_empty(), config.open) {
        (true, true) => founded(Network::found_open(unit, r), config),
        (true, false) => founded(Network::found(unit, r), config),
        (false, _) => Network::provisional(unit, r),
    };
    files.save_network(&network)?;
    Ok(network)
}

/// The network with the id that the configuration wants.
fn founded(network: Network, config: &Config) -> Network {
    Network {
        id: config.settings.network.map_or(network.id, |given| given.0),
        ..network
    }
}

fn invites(config: &Config) -> impl Iterator<Item = &Invite> {
    config.join.iter().filter_map(Join::invite)
}

/// A member of a network belongs to no other one, and a closed network stays closed.
fn check_member(network: &Network, config: &Config) -> Result<(), Failure> {
    if config
        .settings
        .network
        .is_some_and(|wanted| wanted.0 != network.id)
    {
        let text = "this data directory belongs to another network than the configured one; use another \
                    directory, or drop `network` from the configuration";
        return Err(Failure::usage(text));
    }
    if invites(config).any(|invite| invite.network != network.id) {
        let text = "an invite given to join (with --join, or as `join` in config.toml) is of another network \
                    than this data directory, which stays in its own; nothing was changed; leave that invite \
                    out, or join with it in another directory (--data-dir)";
        return Err(Failure::not_allowed(text));
    }
    if config.open && network.is_open() == Some(false) {
        let text = "--open: this data directory belongs to a closed network, which stays closed; leave \
                    --open out, or found an open network in another directory";
        return Err(Failure::usage(text));
    }
    Ok(())
}

/// What is given to join leads into one network, and is not founded at the same time. `--open` is no
/// contradiction to an invite into an open network: so all daemons of a testnet can have the same flags.
fn check_joins(config: &Config) -> Result<(), Failure> {
    let given = config.settings.network.map(|network| network.0);
    let mut ids = invites(config).map(|invite| invite.network).chain(given);
    let first = ids.next();
    if ids.any(|id| Some(id) != first) {
        let text = "the invites given to join, or `network` in the configuration, name different networks; \
                    nothing was changed; a peer belongs to one: give the invites of one";
        return Err(Failure::usage(text));
    }
    if !config.open || config.join.is_empty() {
        return Ok(());
    }
    if config.join.iter().any(Join::has_secret) {
        let text = "--open founds an open network, and the invite leads into a closed one; give one of them";
        return Err(Failure::usage(text));
    }
    if invites(config).next().is_none() {
        let text = "--open founds an open network, and --join (or `join` in config.toml) joins one that is \
                    there; nothing was changed; give one of them: an open network is joined by an address \
                    alone";
        return Err(Failure::usage(text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetworkId;
    use crate::datadir::network::SECRET;

    #[test]
    fn a_peer_that_waited_to_join_founds_a_network_when_there_is_nothing_to_join_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let joining = Config {
            join: vec![Join::Address("/ip4/127.0.0.1/tcp/1".to_owned())],
            ..Config::of("")
        };
        assert!(!network(&data, &joining).unwrap().adopted);
        let founding = Config {
            join: Vec::new(),
            ..joining.clone()
        };
        let founded = network(&data, &founding).unwrap();
        assert!(founded.adopted);
        assert_eq!(network(&data, &joining).unwrap(), founded);
        let mut elsewhere = founding;
        elsewhere.settings.network = Some(NetworkId([7; 32]));
        assert!(network(&data, &elsewhere).is_err());
        assert_eq!((founded.secret.len(), founded.is_open()), (SECRET, Some(false)));
        let open = Config {
            open: true,
            join: Vec::new(),
            ..joining
        };
        assert!(network(&data, &open).is_err());
        assert_eq!(data.network().unwrap(), Some(founded));
    }

    #[test]
    fn an_open_network_is_founded_only_when_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let open = Config {
            open: true,
            ..Config::of("")
        };
        let founded = network(&data, &open).unwrap();
        assert_eq!(founded.is_open(), Some(true));
        let again = Config {
            open: false,
            ..open.clone()
        };
        assert_eq!(network(&data, &again).unwrap(), founded);
        assert_eq!(network(&data, &open).unwrap(), founded);
    }
}
