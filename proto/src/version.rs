//! What a build calls itself.

/// Returns the version of a build: `package`, or what whoever built it made of it, which may add to it and never
/// change it: `0.1.0+debian.3`, `0.1.0+5f2a9c1`.
///
/// For constants of binaries: `of_build(env!("CARGO_PKG_VERSION"), option_env!("NEZHA_VERSION"))`. There and nowhere
/// else, so that another name compiles one file again and not the node.
///
/// Panics: `named` is not `package`, or `package`, a plus sign and more; in a constant, the build fails.
pub const fn of_build(package: &'static str, named: Option<&'static str>) -> &'static str {
    let Some(named) = named else { return package };
    if named.is_empty() {
        return package;
    }
    let (wanted, found) = (package.as_bytes(), named.as_bytes());
    assert!(
        found.len() >= wanted.len(),
        "NEZHA_VERSION does not begin with the package's version"
    );
    let mut at = 0;
    while at < wanted.len() {
        assert!(
            wanted[at] == found[at],
            "NEZHA_VERSION does not begin with the package's version"
        );
        at += 1;
    }
    assert!(
        found.len() == wanted.len() || (found[at] == b'+' && found.len() > wanted.len() + 1),
        "NEZHA_VERSION adds to the package's version without a plus sign"
    );
    named
}

#[cfg(test)]
mod tests {
    use super::of_build;

    #[test]
    fn a_build_adds_to_the_version() {
        assert_eq!(of_build("0.1.0", None), "0.1.0");
        assert_eq!(of_build("0.1.0", Some("")), "0.1.0");
        assert_eq!(of_build("0.1.0", Some("0.1.0")), "0.1.0");
        assert_eq!(of_build("0.1.0", Some("0.1.0+debian.3")), "0.1.0+debian.3");
    }

    #[test]
    fn a_build_never_changes_the_version() {
        for wrong in [
            "0.1",
            "0.1.1",
            "1.0.1.0",
            "0.1.01",
            "0.1.0-rc1",
            "0.1.0+",
            "debian.3",
        ] {
            let named = std::panic::catch_unwind(|| of_build("0.1.0", Some(wrong)));
            assert!(named.is_err(), "{wrong}");
        }
    }
}
