//! Where clients reach this node, and who else there is: nobody.

use std::fmt::Write;

use super::Arguments;
use super::commands::Answer;
use super::request::Joined;
use crate::state::State;

/// The port that peers lists leave out.
const DEFAULT_PORT: u16 = 3000;

/// Other nodes, present or former, for old clients: none.
pub(super) fn services(_: &State, _: &mut String) -> Answer {
    Ok(())
}

/// Forgets former nodes.
pub(super) fn services_alumni_reset(_: &State, out: &mut String) -> Answer {
    out.push_str("ok");
    Ok(())
}

/// `generation,default port,[other nodes]`.
pub(super) fn peers(state: &State, _: Arguments<'_>, out: &mut String) -> Answer {
    let _ = write!(out, "{},{DEFAULT_PORT},[]", state.cluster.peers_generation());
    Ok(())
}

pub(super) fn generation(state: &State, out: &mut String) -> Answer {
    let _ = write!(out, "{}", state.cluster.peers_generation());
    Ok(())
}

/// Own addresses for old clients, which know IPv4 only.
pub(super) fn service(state: &State, out: &mut String) -> Answer {
    let mut addresses = Joined::new(out, ';');
    state.advertised.standard.iter().filter(|address| !address.starts_with('[')).for_each(|address| {
        addresses.item(address);
    });
    Ok(())
}

pub(super) fn service_clear_std(state: &State, out: &mut String) -> Answer {
    out.push_str(&state.advertised.standard.join(","));
    Ok(())
}

pub(super) fn service_clear_alt(state: &State, out: &mut String) -> Answer {
    out.push_str(&state.advertised.alternate.join(","));
    Ok(())
}
