//! Licences, banned crates and sources, by the rules in `deny.toml`.
//!
//! cargo-deny reads the same file where it is installed; this check needs no tool, so it is never skipped.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::graph::metadata;

#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: BTreeSet<String>,
}

fn rules() -> Rules {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml");
    toml::from_str(&std::fs::read_to_string(path).expect("deny.toml exists")).expect("deny.toml parses")
}

/// What the check needs to know about one package.
struct Package<'a> {
    name: &'a str,
    license: Option<&'a str>,
    /// None: a path inside the workspace.
    source: Option<&'a str>,
}

/// Evaluates an SPDX expression: true if the allowed licences suffice.
fn satisfied(expression: &str, allow: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().collect::<Vec<_>>();
    words.reverse();
    let answer = any_of(&mut words, allow);
    answer && words.is_empty()
}

fn any_of(words: &mut Vec<&str>, allow: &BTreeSet<String>) -> bool {
    let mut answer = all_of(words, allow);
    while words.last() == Some(&"OR") {
        words.pop();
        answer |= all_of(words, allow);
    }
    answer
}

fn all_of(words: &mut Vec<&str>, allow: &BTreeSet<String>) -> bool {
    let mut answer = one(words, allow);
    while words.last() == Some(&"AND") {
        words.pop();
        answer &= one(words, allow);
    }
    answer
}

fn one(words: &mut Vec<&str>, allow: &BTreeSet<String>) -> bool {
    match words.pop() {
        Some("(") => {
            let answer = any_of(words, allow);
            words.pop() == Some(")") && answer
        }
        Some(name) if words.last() == Some(&"WITH") => {
            words.pop();
            let exception = words.pop().unwrap_or_default();
            allow.contains(&format!("{name} WITH {exception}"))
        }
        Some(name) => allow.contains(name),
        None => false,
    }
}

fn violations(rules: &Rules, packages: &[Package<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        let name = package.name;
        match package.license {
            Some(license) if satisfied(license, &rules.licenses.allow) => {}
            Some(license) => found.push(format!("{name}: licence {license} is not allowed")),
            None => found.push(format!("{name}: states no licence")),
        }
        if let Some(ban) = rules.bans.deny.iter().find(|ban| ban.name == name) {
            found.push(format!("{name}: banned, {}", ban.reason));
        }
        if let Some(source) = package.source {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            if !rules.sources.allow_registry.contains(registry) {
                found.push(format!("{name}: source {source} is not allowed"));
            }
        }
    }
    found
}

#[test]
fn every_dependency_satisfies_deny_toml() {
    let metadata = metadata();
    let packages: Vec<_> = metadata
        .packages
        .iter()
        .map(|p| Package {
            name: p.name.as_str(),
            license: p.license.as_deref(),
            source: p.source.as_ref().map(|s| s.repr.as_str()),
        })
        .collect();
    assert!(
        packages.len() > 100,
        "the whole graph was read: {}",
        packages.len()
    );
    let found = violations(&rules(), &packages);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn planted_violations_are_refused() {
    let index = "registry+https://github.com/rust-lang/crates.io-index";
    let package = |name, license, source| Package {
        name,
        license,
        source,
    };
    let found = violations(
        &rules(),
        &[
            package("good", Some("MIT OR Apache-2.0"), Some(index)),
            package("copyleft", Some("GPL-3.0-only"), Some(index)),
            package("both", Some("MIT AND GPL-3.0-only"), Some(index)),
            package("silent", None, Some(index)),
            package("openssl", Some("Apache-2.0"), Some(index)),
            package("fork", Some("MIT"), Some("git+https://example.org/fork")),
        ],
    );
    assert_eq!(
        found,
        [
            "copyleft: licence GPL-3.0-only is not allowed",
            "both: licence MIT AND GPL-3.0-only is not allowed",
            "silent: states no licence",
            "openssl: banned, TLS is rustls",
            "fork: source git+https://example.org/fork is not allowed",
        ]
    );
}

#[test]
fn licence_expressions_are_evaluated_as_spdx_states() {
    let allow: BTreeSet<String> = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
        .map(String::from)
        .into();
    let yes = [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "MIT AND Apache-2.0",
        "(GPL-3.0-only OR MIT) AND Apache-2.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only",
    ];
    let no = [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT OR Apache-2.0",
        "MIT WITH LLVM-exception",
        "OR MIT",
    ];
    for expression in yes {
        assert!(satisfied(expression, &allow), "{expression}");
    }
    for expression in no {
        assert!(!satisfied(expression, &allow), "{expression}");
    }
}
