//! A real API server with its etcd, the operator as a real process beside it, and a store. The controllers and the
//! kubelet of a cluster are not there: a test ends Jobs itself, after it ran what their pods would have run with what
//! their pods would have had.

use crate::minio::{Minio, free_address};
use crate::programs::{api_server, prepare, spawn};
use crate::world::{read, root};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams, ValidationDirective,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strongroom_csi::operator::crd::{self, BackupRepo, StorageProvider};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strongroom-csi");
/// How long anything may take that a busy machine of two cores has to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Where the operator and its pre-checks are.
pub(crate) const HOME: &str = "kb-system";

/// The processes of a test.
pub(crate) struct Server {
    pub(crate) minio: Arc<Minio>,
    pub(crate) client: Client,
    pub(crate) runtime: Runtime,
    folder: TempDir,
    processes: Vec<Child>,
    operator: Option<Child>,
    /// Where the operator tells of itself.
    observed: u16,
    /// Of etcd and the API server.
    ports: (u16, u16),
}

fn free_port() -> u16 {
    free_address().port()
}

impl Server {
    /// Everything but the operator.
    pub(crate) fn start() -> Self {
        // Another process may take a port between our look and the server's: again, with other ports.
        let begun = Instant::now();
        loop {
            let mut server = Self::launch();
            if server.answers() {
                server.install();
                return server;
            }
            server.tell();
            assert!(begun.elapsed() < PATIENCE, "the API server does not answer");
        }
    }

    /// etcd and the API server, perhaps not ready yet.
    fn launch() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (etcd, peer, api) = (free_port(), free_port(), free_port());
        let kubeconfig = prepare(folder.path(), api);
        let url = format!("http://127.0.0.1:{etcd}");
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(["--unsafe-no-fsync", "--listen-client-urls", &url])
            .args(["--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")]);
        let mut processes = vec![spawn(folder.path(), "etcd", &mut command)];
        let ports = (etcd, api);
        processes.push(spawn(
            folder.path(),
            "kube-apiserver",
            &mut api_server(folder.path(), ports),
        ));
        let runtime = Runtime::new().expect("a runtime");
        let config = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(config, &options);
        let client = runtime.block_on(async {
            Client::try_from(config.await.expect("a configuration")).expect("a client")
        });
        Self {
            minio: Minio::shared(),
            client,
            runtime,
            folder,
            processes,
            operator: None,
            observed: free_port(),
            ports,
        }
    }

    /// Waits until the API server answers; not when it or etcd has ended.
    fn answers(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.runtime.block_on(self.client.apiserver_version()).is_ok() {
                return true;
            }
            let ended = |child: &mut Child| child.try_wait().expect("a child of ours").is_some();
            if self.processes.iter_mut().any(ended) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// The kinds, the providers, the CSI driver's object and the operator's namespace.
    fn install(&mut self) {
        for (_, definition) in crd::definitions() {
            let definition: CustomResourceDefinition =
                serde_json::from_value(definition).expect("a definition");
            self.create(Api::all(self.client.clone()), &definition);
        }
        self.wait("the kinds", |client| async move {
            let api = Api::<BackupRepo>::all(client.clone());
            let providers = Api::<StorageProvider>::all(client);
            let listed = api
                .list(&Default::default())
                .await
                .and(providers.list(&Default::default()).await.map(drop));
            Ok(listed.ok())
        });
        self.namespace(HOME, None);
        for entry in std::fs::read_dir(root().join("deploy/storage-providers")).expect("the folder")
        {
            let provider: StorageProvider = read(&entry.expect("an entry").path());
            self.create(Api::all(self.client.clone()), &provider);
        }
    }

    /// Starts the operator, or starts it again.
    pub(crate) fn operate(&mut self) {
        self.operate_with(&[]);
    }

    /// The same with more flags.
    pub(crate) fn operate_with(&mut self, flags: &[&str]) {
        assert!(self.operator.is_none(), "it runs already");
        let mut command = Command::new(PROGRAM);
        command
            .args(["operator", "--namespace", HOME, "--image", "strongroom:test"])
            .args(["--retry-first", "1s", "--check-every", "1h"])
            .args(flags)
            .arg(format!("--observe=127.0.0.1:{}", self.observed))
            .env("KUBECONFIG", self.kubeconfig());
        self.operator = Some(spawn(self.folder.path(), "operator", &mut command));
    }

    /// Takes the API server away.
    pub(crate) fn stop_api(&mut self) {
        let mut child = self.processes.pop().expect("it runs");
        child.kill().expect("it was there");
        child.wait().expect("it is gone");
    }

    /// Brings it back.
    pub(crate) fn start_api(&mut self) {
        let mut command = api_server(self.folder.path(), self.ports);
        self.processes.push(spawn(self.folder.path(), "kube-apiserver-again", &mut command));
        self.wait("the API server", |client| async move {
            let list = Api::<Namespace>::all(client).list(&Default::default()).await;
            Ok(list.ok().map(drop))
        });
    }

    /// A page of the operator: its status and its text; `None` while it does not listen.
    pub(crate) fn page(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.observed)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// What a user's programs find the cluster by.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Ends the operator as a crash does.
    pub(crate) fn kill_operator(&mut self) {
        let mut child = self.operator.take().expect("it runs");
        child.kill().expect("it was there");
        child.wait().expect("it is gone");
    }

    /// The operator's memory, in bytes.
    pub(crate) fn operators_memory(&self) -> u64 {
        let child = self.operator.as_ref().expect("it runs");
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its size");
        let number = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
        number.expect("a number") * 1024
    }

    pub(crate) fn create<K>(&self, api: Api<K>, object: &K) -> K
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
    {
        let created = self.runtime.block_on(api.create(&PostParams::default(), object));
        created.unwrap_or_else(|error| panic!("{error}: {object:?}"))
    }

    /// An object of any kind, as kubectl would send it.
    pub(crate) fn create_raw(&self, manifest: Value) -> Result<DynamicObject, kube::Error> {
        let (api, object) = self.raw(manifest);
        self.runtime.block_on(api.create(&PostParams::default(), &object))
    }

    /// Whether the server would take an object of any kind, with every field of it.
    pub(crate) fn would_take(&self, manifest: Value) -> Result<DynamicObject, kube::Error> {
        let (api, object) = self.raw(manifest);
        let patch = PatchParams::apply("test").force().dry_run();
        let patch = patch.validation(ValidationDirective::Strict);
        let name = object.metadata.name.clone().expect("a name");
        self.runtime.block_on(api.patch(&name, &patch, &Patch::Apply(&object)))
    }

    pub(crate) fn raw(&self, manifest: Value) -> (Api<DynamicObject>, DynamicObject) {
        let object: DynamicObject = serde_json::from_value(manifest).expect("an object");
        let types = object.types.clone().expect("its kind");
        let (group, version) =
            types.api_version.split_once('/').unwrap_or(("", &types.api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
        let api = match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        (api, object)
    }

    pub(crate) fn namespace(&self, name: &str, repo: Option<&str>) {
        let labels =
            repo.map(|repo| [("strongroom.io/backup-repo".to_owned(), repo.to_owned())].into());
        let metadata = ObjectMeta { name: Some(name.to_owned()), labels, ..ObjectMeta::default() };
        self.create(Api::all(self.client.clone()), &Namespace { metadata, ..Namespace::default() });
    }

    pub(crate) fn secret(&self, namespace: &str, name: &str, values: &[(&str, &str)]) {
        let secret = crate::world::secret(namespace, name, values);
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let patch = PatchParams::apply("test").force();
        let done = self.runtime.block_on(api.patch(name, &patch, &Patch::Apply(&secret)));
        done.expect("the Secret is written");
    }

    pub(crate) fn repo(&self, name: &str) -> BackupRepo {
        let api = Api::<BackupRepo>::all(self.client.clone());
        self.runtime.block_on(api.get(name)).expect("the repository")
    }

    /// Waits until something is there.
    pub(crate) fn wait<T, F>(&self, what: &str, look: impl Fn(Client) -> F) -> T
    where
        F: Future<Output = Result<Option<T>, String>>,
    {
        let begun = Instant::now();
        let mut last = String::new();
        loop {
            match self.runtime.block_on(look(self.client.clone())) {
                Ok(Some(found)) => return found,
                Ok(None) => {}
                Err(error) => last = error,
            }
            if begun.elapsed() > PATIENCE {
                self.tell();
                panic!("{what}: not within {PATIENCE:?}: {last}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a repository is as it should be.
    pub(crate) fn wait_for(&self, name: &str, is: impl Fn(&BackupRepo) -> bool) -> BackupRepo {
        let is = &is;
        let name = name.to_owned();
        self.wait(&format!("BackupRepo {name}"), |client| {
            let name = name.clone();
            async move {
                let repo = Api::<BackupRepo>::all(client).get(&name).await;
                let repo = repo.map_err(|error| error.to_string())?;
                match is(&repo) {
                    true => Ok(Some(repo)),
                    false => Err(format!("{:?}", repo.status)),
                }
            }
        })
    }

    /// Waits for the next pre-check of a repository, runs what its pod would run, and ends its Job accordingly.
    pub(crate) fn run_pre_check(&self, repo: &str) -> bool {
        let label = format!("dataprotection.kubeblocks.io/backup-repo-name={repo}");
        let parameters = kube::api::ListParams::default().labels(&label);
        let job = self.wait("a pre-check's Job", |client| {
            let parameters = parameters.clone();
            async move {
                let jobs = Api::<Job>::namespaced(client, HOME).list(&parameters).await;
                let jobs = jobs.map_err(|error| error.to_string())?;
                Ok(jobs.items.into_iter().find(|job| {
                    job.status.as_ref().is_none_or(|status| status.conditions.is_none())
                }))
            }
        });
        let pod = job.spec.clone().and_then(|spec| spec.template.spec).expect("a pod");
        let source = pod.volumes.as_ref().and_then(|volumes| volumes[0].secret.clone());
        let name = source.and_then(|source| source.secret_name).expect("its Secret");
        let api = Api::<Secret>::namespaced(self.client.clone(), HOME);
        let secret = self.runtime.block_on(api.get(&name)).expect("the Secret");
        let folder = tempfile::tempdir().expect("a folder");
        for (key, value) in secret.data.expect("data") {
            std::fs::write(folder.path().join(key), value.0).expect("written");
        }
        let words = pod.containers[0].command.clone().expect("a command");
        let here =
            |word: &String| word.replace("/etc/datasafed", &folder.path().display().to_string());
        let log = folder.path().join("termination-log");
        // What kubelet makes of a ConfigMap.
        let maps = pod.volumes.iter().flatten().filter_map(|volume| volume.config_map.as_ref());
        for map in maps {
            let api = Api::<ConfigMap>::namespaced(self.client.clone(), HOME);
            let map = self.runtime.block_on(api.get(&map.name)).expect("the ConfigMap");
            for (key, value) in map.data.expect("data") {
                std::fs::write(folder.path().join(key), value).expect("written");
            }
        }
        let here_too = |value: String| {
            value.replace("/etc/strongroom/ca", &folder.path().display().to_string())
        };
        let variables = pod.containers[0].env.clone().unwrap_or_default().into_iter();
        let variables =
            variables.map(|variable| (variable.name, here_too(variable.value.unwrap_or_default())));
        let status = Command::new(PROGRAM)
            // A pod has nothing of this process's environment that would say whom to trust.
            .env_remove("AWS_CA_BUNDLE")
            .envs(variables)
            .args(words[1..].iter().map(here))
            .arg("--termination-log")
            .arg(&log)
            .stderr(Stdio::null())
            .status()
            .expect("it starts");
        let last_words = std::fs::read_to_string(log).ok();
        self.end_job(&job, status.code().expect("a code"), last_words.as_deref());
        status.success()
    }

    /// What the Job's controller and the kubelet would write.
    fn end_job(&self, job: &Job, code: i32, last_words: Option<&str>) {
        let name = job.name_any();
        let uid = job.metadata.uid.as_deref().expect("a uid");
        let api = Api::<Pod>::namespaced(self.client.clone(), HOME);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"generateName": format!("{name}-"), "namespace": HOME,
                         "labels": {"batch.kubernetes.io/controller-uid": uid}},
            "spec": job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()),
        }))
        .expect("a pod");
        let pod = self.create(api.clone(), &pod);
        let ended = json!({"exitCode": code, "message": last_words.unwrap_or_default()});
        let status = json!({"status": {
            "phase": if code == 0 { "Succeeded" } else { "Failed" },
            "containerStatuses": [{
                "name": "pre-check", "image": "x", "imageID": "x", "ready": false, "restartCount": 0,
                "state": {"terminated": ended},
            }],
        }});
        let patch = PatchParams::default();
        let (of_pod, status) = (pod.name_any(), Patch::Merge(status));
        let done = api.patch_status(&of_pod, &patch, &status);
        self.runtime.block_on(done).expect("the pod's status");
        let now = strongroom_csi::operator::conditions::written(jiff::Timestamp::now());
        let condition = |kind: &str| {
            json!({"type": kind, "status": "True", "reason": "Test", "message": "",
                   "lastProbeTime": now, "lastTransitionTime": now})
        };
        let status = match code {
            0 => json!({"status": {
                "startTime": now, "completionTime": now, "succeeded": 1,
                "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
            }}),
            _ => json!({"status": {
                "startTime": now, "failed": 1,
                "conditions": [condition("FailureTarget"), condition("Failed")],
            }}),
        };
        let api = Api::<Job>::namespaced(self.client.clone(), HOME);
        let status = Patch::Merge(status);
        let done = api.patch_status(&name, &patch, &status);
        self.runtime.block_on(done).expect("the Job's status");
    }

    /// The last lines of each program, for a failure.
    #[allow(clippy::print_stderr, reason = "what a failing test has to say")]
    fn tell(&self) {
        for name in ["etcd", "kube-apiserver", "operator"] {
            let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(20).collect();
            eprintln!("--- {name}");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }

    /// What the operator said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("operator")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let all = self.operator.iter_mut().chain(self.processes.iter_mut().rev());
        for child in all {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
