//! The dependency graph as the checkers see it.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Packages by name. Two versions of one registry crate are merged: the checks are about names.
#[derive(Debug, Default, Clone)]
pub struct Graph {
    /// Workspace members.
    pub members: BTreeSet<String>,
    /// Normal and build dependencies, for every package in the resolve.
    pub links: BTreeMap<String, BTreeSet<String>>,
    /// Development dependencies of workspace members.
    pub dev: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Reads the resolved graph out of `cargo metadata`.
    pub fn of(metadata: &Metadata) -> Graph {
        let names: BTreeMap<&PackageId, String> = metadata
            .packages
            .iter()
            .map(|p| (&p.id, p.name.to_string()))
            .collect();
        let members = metadata
            .workspace_members
            .iter()
            .map(|id| names[id].clone())
            .collect();
        let mut graph = Graph {
            members,
            ..Graph::default()
        };
        let resolve = metadata
            .resolve
            .as_ref()
            .expect("cargo metadata was run with dependencies");
        for node in &resolve.nodes {
            let from = names[&node.id].clone();
            let links = graph.links.entry(from.clone()).or_default();
            let mut dev = BTreeSet::new();
            for dep in &node.deps {
                let only_dev = dep
                    .dep_kinds
                    .iter()
                    .all(|k| k.kind == DependencyKind::Development);
                let to = names[&dep.pkg].clone();
                if only_dev {
                    dev.insert(to)
                } else {
                    links.insert(to)
                };
            }
            graph.dev.entry(from).or_default().extend(dev);
        }
        graph
    }

    /// Adds a normal dependency; for planted violations.
    pub fn link(&mut self, from: &str, to: &str) {
        self.links.entry(from.into()).or_default().insert(to.into());
    }

    /// A path of normal and build dependencies from `from` to `to`, both included.
    pub fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = vec![from];
        while let Some(at) = queue.pop() {
            if at == to {
                let mut path = vec![at.to_string()];
                let mut at = at;
                while let Some(before) = came_from.get(at) {
                    path.push(before.to_string());
                    at = before;
                }
                path.reverse();
                return Some(path);
            }
            for next in self.links.get(at).into_iter().flatten() {
                if next != from && !came_from.contains_key(next.as_str()) {
                    came_from.insert(next, at);
                    queue.push(next);
                }
            }
        }
        None
    }
}

/// `cargo metadata` of this workspace, with the committed lock file.
pub fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .features(cargo_metadata::CargoOpt::AllFeatures)
        .other_options(vec![
            "--locked".into(),
            "--filter-platform=x86_64-unknown-linux-gnu".into(),
        ])
        .exec()
        .expect("cargo metadata --locked succeeds")
}
