//! The volume plugin protocol, version 1: how a Docker Engine asks for volumes that it does not keep itself.
//!
//! Source: "Docker volume plugins" in Docker's documentation, and what engines really send. Every request is an HTTP
//! POST of a JSON object to a path such as `/VolumeDriver.Mount`; every answer is a JSON object whose `Err` says what
//! went wrong, or is empty. Parsing is total and bounded; a name or an id that is not Docker's own is refused here.
//!
//! What an engine does, and a plugin has to cope with: it asks (`Get`) before it creates; it creates a volume on a node
//! long before the last one unmounts it, and once only, so that later options never come; it does not unmount when it,
//! or its node, dies; it repeats a request whose connection broke.
//!
//! One request is our own, `/VolumeDriver.Lag`: before a service moves, somebody asks whether its volume can.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::AddError;
use crate::lease::Takeover;
use crate::name::{MountId, NameError, NodeName, VolumeName};
use crate::volume::{BackendError, VolumeBackend};

/// The longest body of a request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// The most options of a volume.
pub const OPTIONS_MAX: usize = 64;
/// The longest key or value of an option, in bytes.
pub const OPTION_BYTES_MAX: usize = 4 << 10;
/// What answers are declared as.
pub const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// What an engine asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Which protocols this plugin speaks. An engine asks when it meets the plugin for the first time since it started.
    Activate,
    /// What the plugin can do.
    Capabilities,
    /// Every volume.
    List,
    /// Makes a volume.
    Create {
        /// Its name.
        volume: VolumeName,
        /// Its options, as `docker volume create --opt` or a service's mount gave them.
        options: BTreeMap<String, String>,
    },
    /// Removes a volume.
    Remove(VolumeName),
    /// A container is about to use a volume.
    Mount(VolumeName, MountId),
    /// It has ended.
    Unmount(VolumeName, MountId),
    /// Where a volume is mounted.
    Path(VolumeName),
    /// A volume and how it is.
    Get(VolumeName),
    /// Whether a volume can change hands. No engine asks this, but whoever is about to move a service.
    Lag {
        /// The volume.
        volume: VolumeName,
        /// The nodes that have it.
        from: Vec<NodeName>,
        /// Those of which one is to have it.
        to: Vec<NodeName>,
    },
}

/// Why bytes are no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A path that the protocol does not have.
    #[error("this plugin has no {0:?}")]
    Unknown(String),
    /// The body is no JSON object of the form that the path takes.
    #[error("the request is malformed: {0}")]
    Malformed(String),
    /// A name or an id is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Too much of something.
    #[error("the request has more than {max} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
}

/// Why a volume driver could not begin, or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// Another process serves the socket.
    #[error("{} is served by a process that is running: stop it first", .0.display())]
    Served(PathBuf),
    /// The socket cannot be made.
    #[error("the plugin socket {} cannot be made: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file with the mounts of this node cannot be read or written.
    #[error("the mounts of this node, {}: {source}", path.display())]
    Mounts {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The volumes of this node cannot be found out.
    #[error("the volumes of this node: {0}")]
    Volumes(BackendError),
    /// A volume cannot be taken up.
    #[error(transparent)]
    Add(AddError),
}

/// What an engine is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To `Activate`: it is a volume driver.
    Activated,
    /// To `Capabilities`: each node has its own volume of a name, and creates it by itself.
    Capabilities,
    /// It was done.
    Done,
    /// To `Mount` and `Path`.
    Mountpoint(Option<PathBuf>),
    /// To `Get`.
    Volume(Described),
    /// To `List`.
    Volumes(Vec<Described>),
    /// To `Lag`: which node lacks how much, in words, if one does.
    Lag(Option<String>),
    /// It was not done, and why.
    Failed(String),
}

/// A volume as the engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub volume: VolumeName,
    /// Where it is, while it is mounted.
    pub mountpoint: Option<PathBuf>,
    /// What `docker volume inspect` shows as its status, by key.
    pub status: BTreeMap<String, String>,
}

/// The replicas of a node's volumes: which there are, and what becomes of them. A plugin asks it on behalf of the engine.
pub trait VolumeKeeper: Send + Sync + 'static {
    /// A replica.
    type Backend: VolumeBackend;

    /// The volumes that are here already. Asked once, before anything else.
    fn volumes(&self) -> impl Future<Output = Result<Vec<Kept<Self::Backend>>, BackendError>> + Send;

    /// Makes the replica of a volume. A volume that is here already stays as it is, and is given again.
    ///
    /// # Errors
    /// When an option makes no sense, or other options were given before; what is said reaches the person who ran Docker.
    fn create(
        &self,
        volume: &VolumeName,
        options: &BTreeMap<String, String>,
    ) -> impl Future<Output = Result<Kept<Self::Backend>, BackendError>> + Send;

    /// Refuses to have the replica of a volume removed if something would be lost with it, and says what to do. Asked before
    /// [`remove`](Self::remove); what it says reaches the person who ran Docker.
    fn removable(&self, _volume: &VolumeName) -> impl Future<Output = Result<(), BackendError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Removes the replica of a volume that nobody on this node uses.
    fn remove(&self, volume: &VolumeName) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Which of the nodes `to` lacks how much of what the nodes `from` have of a volume, in words such as "home-2, which lacks 12
    /// changes". A mount waits for the same; who knows it before can leave a service where it is meanwhile.
    fn lag(
        &self,
        _volume: &VolumeName,
        _from: &[NodeName],
        _to: &[NodeName],
    ) -> impl Future<Output = Result<Option<String>, BackendError>> + Send {
        async { Ok(None) }
    }

    /// What there is to say about a volume, for `docker volume inspect`.
    fn describe(&self, volume: &VolumeName) -> BTreeMap<String, String>;
}

/// A volume of a [`VolumeKeeper`].
#[derive(Debug)]
pub struct Kept<B> {
    /// Its name.
    pub volume: VolumeName,
    /// Who may write to it.
    pub access: Access<B>,
}

/// Who may write to a volume.
#[derive(Debug)]
pub enum Access<B> {
    /// One node at a time, which has its lease.
    Single {
        /// The replica.
        backend: B,
        /// What to do about a holder that is down.
        takeover: Takeover,
    },
    /// Every node at once: there is no lease, and what two change at once is for the replicas to settle.
    Shared {
        /// Where the replica is.
        path: PathBuf,
    },
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// When it is none of this protocol, or beyond a limit.
    pub fn parse(path: &str, body: &[u8]) -> Result<Self, RequestError> {
        match path {
            "/Plugin.Activate" => return Ok(Self::Activate),
            "/VolumeDriver.Capabilities" => return Ok(Self::Capabilities),
            "/VolumeDriver.List" => return Ok(Self::List),
            _ => {}
        }
        let Some(method) = path.strip_prefix("/VolumeDriver.").filter(|method| METHODS.contains(method))
        else {
            return Err(RequestError::Unknown(path.chars().take(64).collect()));
        };
        if body.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooMuch { what: "bytes", max: REQUEST_BYTES_MAX });
        }
        let body: Value =
            serde_json::from_slice(body).map_err(|error| RequestError::Malformed(error.to_string()))?;
        let text = |key: &str| {
            body[key].as_str().ok_or_else(|| RequestError::Malformed(format!("it has no text {key:?}")))
        };
        let volume: VolumeName = text("Name")?.parse()?;
        Ok(match method {
            "Create" => Self::Create { volume, options: options(&body["Opts"])? },
            "Remove" => Self::Remove(volume),
            "Mount" => Self::Mount(volume, text("ID")?.parse()?),
            "Unmount" => Self::Unmount(volume, text("ID")?.parse()?),
            "Path" => Self::Path(volume),
            "Lag" => Self::Lag { volume, from: nodes(&body["From"])?, to: nodes(&body["To"])? },
            _ => Self::Get(volume),
        })
    }
}

const METHODS: [&str; 7] = ["Create", "Remove", "Mount", "Unmount", "Path", "Get", "Lag"];

fn nodes(value: &Value) -> Result<Vec<NodeName>, RequestError> {
    let malformed = || RequestError::Malformed("\"From\" and \"To\" are lists of nodes".to_owned());
    let name = |it: &Value| Ok(it.as_str().ok_or_else(malformed)?.parse()?);
    value.as_array().ok_or_else(malformed)?.iter().map(name).collect()
}

fn options(value: &Value) -> Result<BTreeMap<String, String>, RequestError> {
    let none = Map::new();
    let given = match value {
        Value::Null => &none,
        Value::Object(given) => given,
        _ => return Err(RequestError::Malformed("\"Opts\" is no object".to_owned())),
    };
    if given.len() > OPTIONS_MAX {
        return Err(RequestError::TooMuch { what: "options", max: OPTIONS_MAX });
    }
    let option = |(key, value): (&String, &Value)| {
        let value = value.as_str().ok_or_else(|| {
            RequestError::Malformed("an option of the volume has a value that is no text".to_owned())
        })?;
        if key.len() > OPTION_BYTES_MAX || value.len() > OPTION_BYTES_MAX {
            return Err(RequestError::TooMuch { what: "bytes in an option", max: OPTION_BYTES_MAX });
        }
        Ok((key.clone(), value.to_owned()))
    };
    given.iter().map(option).collect()
}

impl Reply {
    /// The answer as it is sent. Without an error the engine reads what it asked for; with one, only that.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Activated => json!({"Implements": ["VolumeDriver"]}),
            Self::Capabilities => json!({"Capabilities": {"Scope": "local"}}),
            Self::Done => json!({"Err": ""}),
            Self::Mountpoint(path) => match path.as_deref().map(Path::to_str) {
                Some(None) => json!({"Err": "the path of the volume is not UTF-8, choose another directory"}),
                path => json!({"Mountpoint": path.flatten().unwrap_or_default(), "Err": ""}),
            },
            Self::Volume(volume) => json!({"Volume": volume.to_json(), "Err": ""}),
            Self::Volumes(volumes) => {
                json!({"Volumes": volumes.iter().map(Described::to_json).collect::<Value>(), "Err": ""})
            }
            Self::Lag(lag) => json!({"Lag": lag.as_deref().unwrap_or_default(), "Err": ""}),
            Self::Failed(reason) => json!({"Err": reason}),
        }
    }
}

impl Described {
    fn to_json(&self) -> Value {
        let path = self.mountpoint.as_deref().and_then(Path::to_str).unwrap_or_default();
        json!({"Name": self.volume.as_str(), "Mountpoint": path, "Status": self.status})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str, body: &str) -> Result<Request, RequestError> {
        Request::parse(path, body.as_bytes())
    }

    #[test]
    fn what_an_engine_sends_is_understood() {
        let data: VolumeName = "data".parse().unwrap();
        assert_eq!(parse("/Plugin.Activate", "").unwrap(), Request::Activate);
        assert_eq!(parse("/VolumeDriver.Capabilities", "{}\n").unwrap(), Request::Capabilities);
        assert_eq!(parse("/VolumeDriver.List", "{}\n").unwrap(), Request::List);
        assert_eq!(parse("/VolumeDriver.Get", r#"{"Name":"data"}"#).unwrap(), Request::Get(data.clone()));
        let options = BTreeMap::from([("replicas".to_owned(), "2".to_owned())]);
        let created = parse("/VolumeDriver.Create", r#"{"Name":"data","Opts":{"replicas":"2"}}"#).unwrap();
        assert_eq!(created, Request::Create { volume: data.clone(), options });
        let plain = Request::Create { volume: data.clone(), options: BTreeMap::new() };
        assert_eq!(parse("/VolumeDriver.Create", r#"{"Name":"data","Opts":null}"#).unwrap(), plain);
        assert_eq!(parse("/VolumeDriver.Create", r#"{"Name":"data"}"#).unwrap(), plain);
        let id: MountId = "0af3".parse().unwrap();
        let mount = parse("/VolumeDriver.Mount", r#"{"Name":"data","ID":"0af3"}"#).unwrap();
        assert_eq!(mount, Request::Mount(data.clone(), id.clone()));
        let unmount = parse("/VolumeDriver.Unmount", r#"{"Name":"data","ID":"0af3"}"#).unwrap();
        assert_eq!(unmount, Request::Unmount(data.clone(), id));
        let lag = parse("/VolumeDriver.Lag", r#"{"Name":"data","From":["a"],"To":["b","c"]}"#).unwrap();
        let node = |name: &str| name.parse().unwrap();
        let (from, to) = (vec![node("a")], vec![node("b"), node("c")]);
        assert_eq!(lag, Request::Lag { volume: data, from, to });
    }

    #[test]
    fn what_no_engine_sends_is_refused() {
        for (path, body) in [
            ("/", "{}"),
            ("/VolumeDriver.List2", "{}"),
            ("/VolumeDriver.", "{}"),
            ("/NetworkDriver.Get", r#"{"Name":"data"}"#),
            ("/VolumeDriver.Get", ""),
            ("/VolumeDriver.Get", "[]"),
            ("/VolumeDriver.Get", r#"{"Name":7}"#),
            ("/VolumeDriver.Get", r#"{"Name":"../etc"}"#),
            ("/VolumeDriver.Get", r#"{"Name":"a\nb"}"#),
            ("/VolumeDriver.Mount", r#"{"Name":"data"}"#),
            ("/VolumeDriver.Mount", r#"{"Name":"data","ID":"a/b"}"#),
            ("/VolumeDriver.Create", r#"{"Name":"data","Opts":[]}"#),
            ("/VolumeDriver.Create", r#"{"Name":"data","Opts":{"a":1}}"#),
            ("/VolumeDriver.Lag", r#"{"Name":"data","From":["a"]}"#),
            ("/VolumeDriver.Lag", r#"{"Name":"data","From":["a"],"To":["../b\n"]}"#),
        ] {
            assert!(parse(path, body).is_err(), "{path} {body}");
        }
    }

    #[test]
    fn every_limit_is_exact() {
        let with = |count: usize, bytes: usize| {
            let value = "x".repeat(bytes);
            let options: BTreeMap<String, &str> = (0..count).map(|n| (format!("o{n}"), &value[..])).collect();
            parse("/VolumeDriver.Create", &json!({"Name": "data", "Opts": options}).to_string())
        };
        assert!(with(OPTIONS_MAX, 1).is_ok() && with(1, OPTION_BYTES_MAX).is_ok());
        let many = with(OPTIONS_MAX + 1, 1).unwrap_err();
        assert_eq!(many, RequestError::TooMuch { what: "options", max: OPTIONS_MAX });
        let long = with(1, OPTION_BYTES_MAX + 1).unwrap_err();
        assert_eq!(long, RequestError::TooMuch { what: "bytes in an option", max: OPTION_BYTES_MAX });
        let padded = |bytes: usize| {
            let body = r#"{"Name":"data"}"#;
            parse("/VolumeDriver.Get", &format!("{body}{}", " ".repeat(bytes - body.len())))
        };
        assert!(padded(REQUEST_BYTES_MAX).is_ok());
        let long = padded(REQUEST_BYTES_MAX + 1).unwrap_err();
        assert_eq!(long, RequestError::TooMuch { what: "bytes", max: REQUEST_BYTES_MAX });
    }

    #[test]
    fn answers_have_the_protocols_form() {
        let described = Described {
            volume: "data".parse().unwrap(),
            mountpoint: None,
            status: BTreeMap::from([("state".to_owned(), "following".to_owned())]),
        };
        let volume = json!({"Name": "data", "Mountpoint": "", "Status": {"state": "following"}});
        for (reply, wanted) in [
            (Reply::Activated, json!({"Implements": ["VolumeDriver"]})),
            (Reply::Capabilities, json!({"Capabilities": {"Scope": "local"}})),
            (Reply::Done, json!({"Err": ""})),
            (Reply::Mountpoint(Some("/a".into())), json!({"Mountpoint": "/a", "Err": ""})),
            (Reply::Mountpoint(None), json!({"Mountpoint": "", "Err": ""})),
            (Reply::Volume(described.clone()), json!({"Volume": volume, "Err": ""})),
            (Reply::Volumes(vec![described]), json!({"Volumes": [volume], "Err": ""})),
            (
                Reply::Lag(Some("b, which lacks 2 changes".to_owned())),
                json!({"Lag": "b, which lacks 2 changes", "Err": ""}),
            ),
            (Reply::Lag(None), json!({"Lag": "", "Err": ""})),
            (Reply::Failed("no".to_owned()), json!({"Err": "no"})),
        ] {
            assert_eq!(reply.to_json(), wanted);
        }
    }
}
