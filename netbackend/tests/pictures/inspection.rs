use std::collections::BTreeMap;

use netbackend::inspect::{self, NotChosen, Rules, text};
use netbackend::plan::firewall;
use netbackend::schema::Name;
use serde_json::json;
use test_fixtures::golden;
use wire::inspection::{Inspection, State};

use crate::facts::{self, World, shop};
use crate::validator::check;

fn assert_text(name: &str, inspection: &Inspection) {
    golden::assert_matches(facts::golden(name), &text::text(inspection));
    check(&Name::Inspection.schema(), &json!(inspection)).unwrap();
}

#[test]
fn a_host_where_all_is_well() {
    let inspection = inspect::inspection(&shop().facts);
    assert!(inspect::is_sound(&inspection));
    assert_text("shop.txt", &inspection);
}

#[test]
fn nothing_on_record() {
    assert_text("nothing.txt", &inspect::inspection(&World::new().facts));
}

/// Each of these is told where it is.
#[test]
fn what_is_broken_is_named() {
    let mut facts = shop().facts;
    let all = firewall::container_elements(&facts.containers[0], &facts.networks);
    facts.rules = Rules::Sound(all.into_iter().take(2).collect());
    facts.links.remove(&"podman2".parse().unwrap());
    facts.links.get_mut(&"podman3".parse().unwrap()).unwrap().up = false;
    let own = &facts.containers[0].attachments[0];
    let port = facts.links.get_mut(&own.host_interface).unwrap();
    port.bridge = None;
    let inner = facts.namespaces.get_mut(&own.netns_inode).unwrap();
    inner
        .as_mut()
        .unwrap()
        .get_mut(&own.interface)
        .unwrap()
        .addresses
        .pop();
    let gone = facts.containers[2].attachments[0].netns_inode;
    facts.namespaces.remove(&gone);
    let hidden = facts.containers[3].attachments[0].netns_inode;
    facts.namespaces.insert(
        hidden,
        Err("setns: IO error: Operation not permitted".to_owned()),
    );
    facts.zones.clear();
    facts.responder = Some(false);
    facts
        .problems
        .push("record x: bad \u{1b}[31m bytes".to_owned());
    let inspection = inspect::inspection(&facts);
    assert!(!inspect::is_sound(&inspection));
    assert_text("broken.txt", &inspection);
}

#[test]
fn rules_that_are_gone_or_hidden() {
    let mut facts = shop().facts;
    let state = |facts: &inspect::Facts| {
        let found = inspect::inspection(facts);
        let part = found.networks[0]
            .parts
            .iter()
            .find(|part| part.part.starts_with("rules"));
        part.unwrap().state
    };
    assert_eq!(state(&facts), State::There);
    facts.rules = Rules::Broken;
    assert_eq!(state(&facts), State::Missing);
    facts.rules = Rules::Unknown("no permission".to_owned());
    assert_eq!(state(&facts), State::Unknown);
    facts.rules = Rules::Sound(BTreeMap::new());
    facts.networks.clear();
    assert!(
        inspect::inspection(&facts)
            .networks
            .iter()
            .all(|network| network.driver != "bridge")
    );
}

/// The container's own networks, or the network's own containers, and no others.
#[test]
fn one_is_chosen_by_name_or_id() {
    let all = inspect::inspection(&shop().facts);
    let names = |name: &str| {
        let chosen = inspect::choose(&all, name).unwrap();
        let networks = chosen.networks.into_iter().map(|one| one.name);
        let containers = chosen.containers.into_iter().map(|one| one.name);
        (
            networks.collect::<Vec<_>>().join(" "),
            containers.collect::<Vec<_>>().join(" "),
        )
    };
    let expected = |networks: &str, containers: &str| (networks.to_owned(), containers.to_owned());
    assert_eq!(names("db"), expected("back", "db"));
    assert_eq!(names("web"), expected("back front", "web"));
    assert_eq!(names("front"), expected("front", "shop-api web"));
    assert_eq!(names("lan"), expected("lan", "printer"));
    let db = all.containers.iter().find(|one| one.name == "db").unwrap();
    assert_eq!(names(&db.id), expected("back", "db"));
    let several = inspect::choose(&all, "0000").unwrap_err();
    assert!(matches!(several, NotChosen::Several { .. }), "{several}");
    let nothing = inspect::choose(&all, "nobody").unwrap_err().to_string();
    assert!(
        nothing.contains("\"nobody\", expected one of db, "),
        "{nothing}"
    );
}
