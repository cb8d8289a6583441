//! What must hold once everything has calmed down.

use std::collections::BTreeSet;

use crate::world::World;

pub(crate) fn check(world: &mut World) {
    converged(world);
    nothing_lost(world);
    fenced(world);
    // A further round changes nothing.
    let before = world.trees();
    let sequences: Vec<_> =
        world.replicas.iter().map(|replica| replica.engine.as_ref().unwrap().meta().sequence).collect();
    (0..world.replicas.len()).for_each(|replica| world.scan(replica));
    world.run_dry();
    assert_eq!(world.trees(), before, "a further round changes the trees");
    for (replica, sequence) in world.replicas.iter().zip(sequences) {
        assert_eq!(
            replica.engine.as_ref().unwrap().meta().sequence,
            sequence,
            "a further round makes versions"
        );
    }
}

fn converged(world: &World) {
    let engines: Vec<_> = world.replicas.iter().map(|replica| replica.engine.as_ref().unwrap()).collect();
    for (number, engine) in engines.iter().enumerate() {
        assert!(engine.problems().is_empty(), "replica {number}: {:?}", engine.problems());
        assert!(engine.is_idle(), "replica {number} is not at rest");
        assert_eq!(engine.digest().unwrap(), engines[0].digest().unwrap(), "replica {number} differs");
    }
    let trees = world.trees();
    for (number, tree) in trees.iter().enumerate() {
        assert_eq!(tree.keys().collect::<Vec<_>>(), trees[0].keys().collect::<Vec<_>>(), "replica {number}");
        assert!(*tree == trees[0], "replica {number} has other bytes than its index says");
    }
    let known = |bytes: &Vec<u8>| bytes.is_empty() || world.written.contains(bytes);
    assert!(trees[0].values().all(known), "a file holds what nobody wrote");
}

fn nothing_lost(world: &World) {
    let live: BTreeSet<_> = world.trees().remove(0).into_values().collect();
    let aside = world.asides();
    for text in &world.written {
        let accounted = live.contains(text)
            || aside.contains(text)
            || world.superseded.contains(text)
            || world.excused.contains(text);
        assert!(accounted, "lost: {:?}", String::from_utf8_lossy(&text[..text.len().min(16)]));
    }
}

fn fenced(world: &World) {
    let live: BTreeSet<_> = world.trees().remove(0).into_values().collect();
    let aside = world.asides();
    for text in world.stale.difference(&world.superseded) {
        let name = String::from_utf8_lossy(&text[..text.len().min(16)]);
        assert!(!live.contains(text), "of a stale epoch, but merged: {name:?}");
        assert!(
            aside.contains(text) || world.excused.contains(text),
            "of a stale epoch, but not kept: {name:?}"
        );
    }
}
