//! What a service mounts: binds, volumes, memory, secrets and configs.

use std::collections::BTreeMap;

use crate::spec::{FileReference, Mount, MountSource};

use super::section::Field;
use super::top::Names;
use super::{Reader, scalar};

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

impl Reader<'_> {
    pub(super) fn mounts(&mut self, field: &Field<'_>, names: &Names) -> Option<BTreeMap<String, Mount>> {
        let mut mounts = BTreeMap::new();
        for item in self.list(field) {
            let mount =
                if item.is_map() { self.long_mount(&item, names) } else { self.short_mount(&item, names) };
            self.mount(&item, mount, &mut mounts);
        }
        Some(mounts)
    }

    /// `tmpfs: /run:size=64m,mode=0755`
    pub(super) fn tmpfs(&mut self, field: &Field<'_>, mounts: &mut BTreeMap<String, Mount>) {
        for item in self.list(field) {
            let mount = self.text(&item).and_then(|text| self.one_tmpfs(&item, &text));
            self.mount(&item, mount, mounts);
        }
    }

    fn mount(
        &mut self,
        field: &Field<'_>,
        mount: Option<(String, Mount)>,
        mounts: &mut BTreeMap<String, Mount>,
    ) {
        let Some((target, mount)) = mount else { return };
        if !target.starts_with('/') {
            self.error(field, format!("the path in the container must be absolute, not {target:?}"));
        } else if mounts.insert(target.clone(), mount).is_some() {
            self.error_with(
                field,
                format!("something is mounted at {target} already"),
                "Remove one of the two",
            );
        }
    }

    fn one_tmpfs(&mut self, field: &Field<'_>, text: &str) -> Option<(String, Mount)> {
        let (target, options) = text.split_once(':').unwrap_or((text, ""));
        let (mut size_bytes, mut mode, mut read_only) = (None, None, false);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let (known, ok) = match option.split_once('=').unwrap_or((option, "")) {
                ("size", size) => {
                    size_bytes = scalar::bytes(size).map(i64::cast_unsigned);
                    (true, size_bytes.is_some())
                }
                ("mode", text) => {
                    mode = scalar::mode(&format!("0{text}"));
                    (true, mode.is_some())
                }
                ("ro", "") => {
                    read_only = true;
                    (true, true)
                }
                ("rw", "") => (true, true),
                _ => (false, false),
            };
            if !known {
                self.warn(field, format!("{option} has no effect in a Swarm"), "Use size= and mode= only");
            } else if !ok {
                self.error(
                    field,
                    format!("{option} is not understood; it must be like size=64m or mode=0755"),
                );
            }
        }
        Some((target.to_owned(), Mount { source: MountSource::Tmpfs { size_bytes, mode }, read_only }))
    }

    /// `data:/var/lib/data:ro`, `./here:/there`, `/alone`
    fn short_mount(&mut self, field: &Field<'_>, names: &Names) -> Option<(String, Mount)> {
        let text = self.text(field)?;
        let parts: Vec<_> = text.splitn(3, ':').collect();
        let (source, target, options) = match parts[..] {
            [target] => ("", target, ""),
            [source, target] => (source, target, ""),
            [source, target, options] => (source, target, options),
            _ => return None,
        };
        let mut read_only = false;
        let mut propagation = None;
        let mut no_copy = false;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option {
                "ro" => read_only = true,
                "rw" | "cached" | "delegated" | "consistent" => {}
                "nocopy" | "volume-nocopy" => no_copy = true,
                "z" | "Z" => self.warn(
                    field,
                    format!(":{option} has no effect in a Swarm"),
                    "Label the directory with chcon",
                ),
                option if PROPAGATIONS.contains(&option) => propagation = Some(option.to_owned()),
                _ => self.error(field, format!(":{option} is not understood; it must be ro, rw or nocopy")),
            }
        }
        let source = match source {
            "" => nameless(no_copy),
            path if path.starts_with(['/', '.', '~']) => {
                MountSource::Bind { path: self.path(field, path)?, propagation }
            }
            name => names.volume(self, field, name, no_copy)?,
        };
        Some((target.to_owned(), Mount { source, read_only }))
    }

    fn long_mount(&mut self, field: &Field<'_>, names: &Names) -> Option<(String, Mount)> {
        let mut section = self.section(field)?;
        let kind = section.read(self, "type", Self::text);
        let source = section.take("source");
        let target = section.read(self, "target", Self::text);
        let read_only = section.read(self, "read_only", Self::boolean).unwrap_or(false);
        let bind = section.take("bind");
        let volume = section.take("volume");
        let tmpfs = section.take("tmpfs");
        section.finish(self, &[("consistency", "it is about macOS only; leave it out")]);
        let source_text = source.as_ref().and_then(|source| self.text(source));
        let source = match (kind.as_deref(), source_text) {
            (Some("bind"), Some(path)) => {
                let propagation = bind.and_then(|bind| self.propagation(&bind));
                MountSource::Bind { path: self.path(source.as_ref()?, &path)?, propagation }
            }
            (Some("bind"), None) => {
                self.error(field, "needs `source`, a path of the node");
                return None;
            }
            (Some("volume"), name) => {
                let no_copy = volume.and_then(|volume| self.no_copy(&volume)).unwrap_or(false);
                match name {
                    Some(name) => names.volume(self, source.as_ref()?, &name, no_copy)?,
                    None => nameless(no_copy),
                }
            }
            (Some("tmpfs"), _) => tmpfs
                .map_or(Some(MountSource::Tmpfs { size_bytes: None, mode: None }), |tmpfs| {
                    self.tmpfs_options(&tmpfs)
                })?,
            (kind, _) => {
                let given = kind.map_or("missing".to_owned(), |kind| format!("{kind:?}"));
                self.error(field, format!("`type` must be volume, bind or tmpfs; it is {given}"));
                return None;
            }
        };
        let Some(target) = target else {
            self.error(field, "needs `target`, a path in the container");
            return None;
        };
        Some((target, Mount { source, read_only }))
    }

    fn propagation(&mut self, field: &Field<'_>) -> Option<String> {
        let mut section = self.section(field)?;
        let words = PROPAGATIONS.map(|word| (word, word));
        let propagation = section.read(self, "propagation", |reader, field| reader.word(field, &words));
        let created = "Swarm does not create the directory; create it on each node";
        section.finish(self, &[("create_host_path", created), ("selinux", "Label the directory with chcon")]);
        propagation.map(str::to_owned)
    }

    fn no_copy(&mut self, field: &Field<'_>) -> Option<bool> {
        let mut section = self.section(field)?;
        let no_copy = section.read(self, "nocopy", Self::boolean);
        section.finish(self, &[("subpath", "mount the whole volume")]);
        no_copy
    }

    fn tmpfs_options(&mut self, field: &Field<'_>) -> Option<MountSource> {
        let mut section = self.section(field)?;
        let size_bytes = section.read(self, "size", Self::bytes).map(i64::cast_unsigned);
        let mode =
            section.read(self, "mode", |reader, field| reader.parsed(field, PERMISSIONS, scalar::mode));
        section.finish(self, &[]);
        Some(MountSource::Tmpfs { size_bytes, mode })
    }

    pub(super) fn path(&mut self, field: &Field<'_>, path: &str) -> Option<String> {
        match self.surroundings.absolute(path) {
            Ok(path) => Some(path),
            Err(why) => {
                self.error(field, format!("{path:?} cannot be made an absolute path: {why}"));
                None
            }
        }
    }

    /// Secrets or configs of a service. `names` maps what the file calls them to what the Swarm does, `root` is where a short one goes.
    pub(super) fn references(
        &mut self,
        field: &Field<'_>,
        names: &BTreeMap<String, String>,
        root: &str,
    ) -> Option<BTreeMap<String, FileReference>> {
        let mut references = BTreeMap::new();
        for item in self.list(field) {
            let Some((target, reference)) = self.reference(&item, names, root) else { continue };
            if references.insert(target.clone(), reference).is_some() {
                self.error_with(
                    &item,
                    format!("{target} is there already"),
                    "Give one of the two another `target`",
                );
            }
        }
        Some(references)
    }

    fn reference(
        &mut self,
        field: &Field<'_>,
        names: &BTreeMap<String, String>,
        root: &str,
    ) -> Option<(String, FileReference)> {
        let (mut uid, mut gid, mut mode, mut target) = (None, None, None, None);
        let name = if field.is_map() {
            let mut section = self.section(field)?;
            let source = section.read(self, "source", Self::text);
            target = section.read(self, "target", Self::text);
            uid = section.read(self, "uid", Self::text);
            gid = section.read(self, "gid", Self::text);
            mode =
                section.read(self, "mode", |reader, field| reader.parsed(field, PERMISSIONS, scalar::mode));
            section.finish(self, &[]);
            let Some(source) = source else {
                self.error(field, "needs `source`, a name from the same file");
                return None;
            };
            source
        } else {
            self.text(field)?
        };
        let Some(source) = names.get(&name).cloned() else {
            let kind = if root.is_empty() { "secrets" } else { "configs" };
            self.error_with(
                field,
                format!("there is no {name:?}"),
                format!("Add it to `{kind}:` at the end of the file"),
            );
            return None;
        };
        let id = |id: Option<String>| id.unwrap_or_else(|| "0".to_owned());
        let reference = FileReference { source, uid: id(uid), gid: id(gid), mode: mode.unwrap_or(0o444) };
        Some((target.unwrap_or_else(|| format!("{root}{name}")), reference))
    }
}

/// A volume that ends with its container.
fn nameless(no_copy: bool) -> MountSource {
    let (options, labels) = (BTreeMap::new(), BTreeMap::new());
    MountSource::Volume { name: None, driver: None, options, labels, no_copy }
}

const PERMISSIONS: &str = "permissions in octal like 0440";
