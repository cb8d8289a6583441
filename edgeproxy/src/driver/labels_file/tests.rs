use super::*;

#[test]
fn each_entry_is_a_container() {
    let snapshot = parse_labels_file(
        br#"[
            {"name": "a", "address": "10.0.0.1", "labels": {"traefik.port": "80"}},
            {"name": "b", "address": "[fd00::1]:8080", "labels": {}, "ports": [81, 80], "up": false},
            {"name": "c", "address": "web.internal:9000", "labels": {}}
        ]"#,
    )
    .unwrap();
    let [a, b, c] = snapshot.containers.as_slice() else { panic!("three containers") };
    assert_eq!(
        (a.name.as_str(), a.up, a.mapped_port, a.labels["traefik.port"].as_str()),
        ("a", true, None, "80")
    );
    assert_eq!(
        (b.address.as_ref().unwrap().to_string().as_str(), b.mapped_port, b.up),
        ("fd00::1", Some(8080), false)
    );
    assert_eq!(b.ports, [81, 80]);
    assert_eq!(
        (c.address.as_ref().unwrap().to_string().as_str(), c.mapped_port),
        ("web.internal", Some(9000))
    );
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, words) in [
        ("", "line 1"),
        ("{}", "expected a sequence"),
        (r#"[{"name": "a", "address": "10.0.0.1"}]"#, "missing field `labels`"),
        ("[\n{\"name\": \"a\", \"adress\": \"x\"}]", "unknown field `adress`"),
        ("[\n{\"name\": \"a\", \"adress\": \"x\"}]", "line 2"),
        (r#"[{"name": "a", "address": "10.0.0.1", "labels": {"traefik.port": 80}}]"#, "expected a string"),
        (r#"[{"name": "a", "address": "10.0.0.1:0", "labels": {}}]"#, "container `a`: `0` is not a port"),
        (r#"[{"name": "a", "address": "http://x", "labels": {}}]"#, "container `a`"),
    ] {
        let error = parse_labels_file(text.as_bytes()).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn a_file_is_read_up_to_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("labels.json");
    let padded = |bytes: u64| {
        let mut text = b"[]".to_vec();
        text.resize(bytes as usize, b' ');
        std::fs::write(&path, text).unwrap();
        LabelsFile::open(&path)
    };
    assert!(padded(LABELS_FILE_MAX_BYTES).is_ok());
    assert!(matches!(padded(LABELS_FILE_MAX_BYTES + 1), Err(ProviderError::TooLarge { .. })));
    let error = LabelsFile::open(dir.path().join("missing.json")).unwrap_err().to_string();
    assert!(error.contains("missing.json") && error.contains("check the path"), "{error}");
}
