//! The whole server: its parts, and the order in which it starts and stops.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cf::sys::eventfd::EventFd;
use cf::threads;

use crate::config::{Config, Obstacle};
use crate::daemon::{Ending, Losses, Run};
use crate::exporter;
use crate::fabric::Cluster;
use crate::health::Health;
use crate::info;
use crate::joining::{await_own_cluster, join_others, starts_alone};
use crate::leaving::{StopPatience, end_work, leave_others, still_at_work};
use crate::metrics::{Heap, ServerMetrics, SystemUsage};
use crate::namespace::{self, Namespace, NamespaceError};
use crate::node::Node;
use crate::ports::{Ports, access_obstacle};
pub use crate::preflight::StartError;
use crate::preflight::{self, check_best_practices, own_node_id};
use crate::query::Queries;
use crate::security::AccessControl;
use crate::service::{
    self, AccessParams, Advertised, CompressionWorker, ConnectionCount, MessageCompression, ReplyBudget,
    SecurityWorkers, ServiceContext, ServicePool, ServiceThread,
};
use crate::sindex::{self, SecondaryIndexes};
use crate::smd::{self, Module, Occasion, Smd, SmdItem};
use crate::storage::DiskCaller;
use crate::ticker;
use crate::tls::TlsPorts;
use crate::transaction::{
    self, BatchPool, BatchWorker, Executor, PoolWorker, ReplicaObserver, ReplicaWrites, TransactionContext,
};
use crate::version::FERROSPIKE_VERSION;
use crate::workers::Workers;

/// How often the server checks whether disks answer.
const DISK_WATCH_PERIOD: Duration = Duration::from_millis(100);
/// A running server. Dropping it stops it.
pub struct Server {
    node: Arc<Node>,
    stop_accepting: Arc<EventFd>,
    is_stopping_sizing: Arc<AtomicBool>,
    is_stopping: Arc<AtomicBool>,
    accept_thread: Option<threads::Handle>,
    is_closed: bool,
    sizing_thread: Option<threads::Handle>,
    info_port_thread: Option<threads::Handle>,
    metrics_port_thread: Option<threads::Handle>,
    background_threads: Vec<threads::Handle>,
}

impl Server {
    /// Starts a server. It accepts requests when this returns.
    ///
    /// # Errors
    /// When a necessary resource is not available. No part of the server then runs.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let started = Instant::now();
        let config = Arc::new(config);
        config.resolve(u32::try_from(threads::cpu_count()).unwrap_or(1));
        let thread_count = config.service.service_threads.get() as usize;

        // The identity of the node.
        let cluster = Arc::new(cluster_of(&config)?);

        Heap::give_back_idle();
        let failed_best_practices = check_best_practices(&config)?;

        // Ports are bound before devices are opened, because the server that holds a port may own these
        // devices.
        let ports = Ports::bind(&config).map_err(|obstacle| StartError::Listen(obstacle.located(&config)))?;
        let addresses = ports.addresses();
        let params = &config.network.service;
        let advertised = advertise(&config, &AccessParams::clear(params), &addresses.clients)?;
        let advertised_tls = advertise(&config, &AccessParams::tls(params), &addresses.clients_tls)?;
        let tls = TlsPorts::open(&config)?;

        // The metadata decides which records on the devices are valid.
        let smd = open_smd(&config, &cluster)?;
        let security = config.security.as_ref().map(|_| AccessControl::open(&config, &smd)).transpose()?;
        // Namespaces, with the records on their devices. Their memory is only address space until it is used.
        let indexes = Arc::new(SecondaryIndexes::new(config.namespaces.len()));
        let replicas = ReplicaWrites::new();
        let namespaces: Arc<[Arc<Namespace>]> = (0..config.namespaces.len())
            .map(|position| {
                let thresholds = smd::removal_thresholds(&smd, &config.namespaces[position].name);
                let definitions = smd.live_items(Module::Sindex);
                let loaded = indexes.to_load(position, &config.namespaces[position].name, &definitions);
                let mut namespace = Namespace::open(
                    &config,
                    position,
                    thread_count,
                    cluster.node_id,
                    &thresholds,
                    Some(&*loaded),
                )?;
                namespace.add_observer(indexes.observer(position));
                if config.network.is_clustered() {
                    namespace.add_observer(ReplicaObserver::new(&replicas, position));
                }
                Ok(Arc::new(namespace))
            })
            .collect::<Result<_, NamespaceError>>()?;
        namespaces.iter().for_each(|namespace| announce_namespace(namespace));
        if !config.network.is_clustered() {
            cluster.deal_alone(&namespaces).map_err(|error| StartError::Namespace(error.to_string()))?;
        }

        let metrics = Arc::new(ServerMetrics::new(thread_count));
        let transactions =
            TransactionContext::new(Arc::clone(&config), Arc::clone(&namespaces), Arc::clone(&metrics));
        let transactions = Arc::new(transactions.with_replicas(replicas));
        let queries = Queries::new(Arc::clone(&config), Arc::clone(&transactions), Arc::clone(&indexes));
        let service = Arc::new(service_context(&config, &metrics, security.clone(), (transactions, queries)));
        let node = Arc::new(Node {
            advertised,
            advertised_tls,
            addresses,
            tls,
            usage: SystemUsage::default(),
            health: Health::default(),
            failed_best_practices,
            config,
            namespaces,
            metrics,
            cluster,
            membership: OnceLock::new(),
            smd,
            security,
            started,
            service,
            indexes,
        });
        listen_to_metadata(&node);
        let mut server = Server {
            stop_accepting: Arc::new(EventFd::new()?),
            is_stopping_sizing: Arc::default(),
            is_stopping: Arc::default(),
            accept_thread: None,
            is_closed: false,
            sizing_thread: None,
            info_port_thread: None,
            metrics_port_thread: None,
            background_threads: Vec::new(),
            node,
        };
        server.start_background_threads()?;
        server.start_workers()?;
        server.start_disk_watch()?;
        server.start_service_threads(thread_count)?;
        server.open_ports(ports)?;
        server.announce();
        Ok(server)
    }

    /// Opens the ports to clients, and, on a cluster node, to other nodes. The kernel queues clients that
    /// connect before the accepting threads run.
    fn open_ports(&mut self, ports: Ports) -> Result<(), StartError> {
        let ports = ports.open(&self.node.tls)?;
        if self.node.config.network.is_clustered() {
            let starts_alone = starts_alone(&self.node);
            let traffic = join_others(&self.node, ports.fabric, ports.heartbeat, starts_alone)?;
            let is_stopping = Arc::clone(&self.is_stopping);
            let thread =
                threads::spawn_restarting("replica-resend", move || traffic.run_resend(&is_stopping))?;
            self.background_threads.push(thread);
            if starts_alone {
                await_own_cluster(&self.node);
            }
        }
        self.start_accepting(ports.doors)?;
        self.start_info_port(ports.info)?;
        self.start_metrics_port(ports.metrics)?;
        Ok(())
    }

    /// The addresses that accept client connections.
    #[must_use]
    pub fn client_addresses(&self) -> &[SocketAddr] {
        &self.node.addresses.clients
    }

    #[cfg(test)]
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Logs the addresses on which the server listens.
    fn announce(&self) {
        let service = &self.node.config.service;
        cf::info!(
            Service,
            "started {} service threads, {} batch threads, {} info threads",
            self.node.service.pool.size(),
            service.batch_index_threads.get(),
            service.info_threads.get()
        );
        let addresses = &self.node.addresses;
        for (kind, addresses) in [
            ("client port", &addresses.clients),
            ("client TLS port", &addresses.clients_tls),
            ("admin port", &addresses.admin),
            ("admin TLS port", &addresses.admin_tls),
        ] {
            addresses.iter().for_each(|address| cf::info!(Service, "{kind} {address}"));
        }
        for (kind, addresses) in
            [("fabric port", &addresses.fabric), ("fabric TLS port", &addresses.fabric_tls)]
        {
            addresses.iter().for_each(|address| cf::info!(Fabric, "{kind} {address}"));
        }
        for (kind, addresses) in
            [("heartbeat port", &addresses.heartbeat), ("heartbeat TLS port", &addresses.heartbeat_tls)]
        {
            addresses.iter().for_each(|address| cf::info!(Hb, "{kind} {address}"));
        }
        for address in &addresses.info {
            cf::info!(InfoPort, "info port {address}");
        }
        cf::info!(As, "service ready: soon there will be cake!");
    }

    /// Starts defrag and nsup of each namespace, and the ticker.
    fn start_background_threads(&mut self) -> io::Result<()> {
        for (n, namespace) in self.node.namespaces.iter().enumerate() {
            for device in 0..namespace.storage.defrag_thread_count() {
                let namespace = Arc::clone(namespace);
                let thread = threads::spawn_essential(&format!("defrag-{n}-{device}"), move || {
                    namespace.storage.run_defrag(device, &namespace.index);
                })?;
                self.background_threads.push(thread);
            }
        }
        for position in 0..self.node.namespaces.len() {
            self.start_flush_threads(position)?;
        }
        self.start_nsup()?;
        for (n, namespace) in self.node.namespaces.iter().enumerate() {
            let (namespace, is_stopping) = (Arc::clone(namespace), Arc::clone(&self.is_stopping));
            let body = move || namespace.run_truncation(&is_stopping);
            self.background_threads.push(restarting(&format!("truncate-{n}"), body)?);
        }
        for (n, namespace) in self.node.namespaces.iter().enumerate() {
            let (namespace, is_stopping) = (Arc::clone(namespace), Arc::clone(&self.is_stopping));
            let body = move || namespace.run_set_index_builder(&is_stopping);
            self.background_threads.push(restarting(&format!("set-index-{n}"), body)?);
        }
        let (namespaces, is_stopping) = (Arc::clone(&self.node.namespaces), Arc::clone(&self.is_stopping));
        self.background_threads
            .push(restarting("tomb-raider", move || namespace::raid(&namespaces, &is_stopping))?);
        if let Some(access) = &self.node.security {
            let (access, is_stopping) = (Arc::clone(access), Arc::clone(&self.is_stopping));
            self.background_threads.push(restarting("quotas", move || access.run_ticks(&is_stopping))?);
        }
        let (node, is_stopping) = (Arc::clone(&self.node), Arc::clone(&self.is_stopping));
        self.background_threads.push(restarting("sindex-build", move || {
            sindex::run_builder(&node.namespaces, &node.indexes, &node.config, &is_stopping);
        })?);
        let (node, is_stopping) = (Arc::clone(&self.node), Arc::clone(&self.is_stopping));
        self.background_threads.push(restarting("sindex-sweep", move || {
            sindex::run_sweep(&node.namespaces, &node.indexes, &node.config, &is_stopping);
        })?);
        if !self.node.tls.is_empty() {
            let (node, is_stopping) = (Arc::clone(&self.node), Arc::clone(&self.is_stopping));
            let body = move || node.tls.run_refresh(&node.config, &is_stopping);
            self.background_threads.push(restarting("tls-refresh", body)?);
        }
        let (node, is_stopping) = (Arc::clone(&self.node), Arc::clone(&self.is_stopping));
        self.background_threads.push(restarting("ticker", move || ticker::run(&node, &is_stopping))?);
        Ok(())
    }

    /// Starts nsup for each namespace, and for all of them the threads that watch limits and that prepare memory.
    fn start_nsup(&mut self) -> io::Result<()> {
        for (n, namespace) in self.node.namespaces.iter().enumerate() {
            let (namespace, is_stopping) = (Arc::clone(namespace), Arc::clone(&self.is_stopping));
            let smd = Arc::clone(&self.node.smd);
            let body = move || {
                let agree =
                    |void_time: Option<u32>| smd::agree_eviction(&smd, namespace.name(), void_time).is_ok();
                namespace::supervise(&namespace, &is_stopping, &agree);
            };
            self.background_threads.push(restarting(&format!("nsup-{n}"), body)?);
        }
        let (namespaces, is_stopping) = (Arc::clone(&self.node.namespaces), Arc::clone(&self.is_stopping));
        let body = move || namespace::watch_stop_writes(&namespaces, &is_stopping);
        self.background_threads.push(restarting("stop-writes", body)?);
        let (namespaces, is_stopping) = (Arc::clone(&self.node.namespaces), Arc::clone(&self.is_stopping));
        let body = move || namespace::prepare_memory(&namespaces, &is_stopping);
        self.background_threads.push(restarting("memory-ahead", body)?);
        Ok(())
    }

    /// Starts one thread for each disk of namespace number `position`, and another one where writes are not durable by
    /// themselves.
    fn start_flush_threads(&mut self, position: usize) -> io::Result<()> {
        let namespace = &self.node.namespaces[position];
        for disk in 0..namespace.storage.disk_count() {
            let namespace = Arc::clone(namespace);
            let thread = threads::spawn_essential(&format!("write-{position}-{disk}"), move || {
                namespace.storage.run_flush(disk);
            })?;
            self.background_threads.push(thread);
        }
        for disk in (0..namespace.storage.disk_count()).filter(|disk| namespace.storage.needs_sync(*disk)) {
            let namespace = Arc::clone(namespace);
            let thread = threads::spawn_essential(&format!("sync-{position}-{disk}"), move || {
                namespace.storage.run_sync(disk);
            })?;
            self.background_threads.push(thread);
        }
        Ok(())
    }

    /// Starts info threads, security threads, batch threads and the threads of the transaction pool.
    fn start_workers(&self) -> io::Result<()> {
        if let (Some(workers), Some(access)) = (&self.node.service.security, &self.node.security) {
            workers.start(access)?;
        }
        let (config, context) = (&self.node.config.service, &self.node.service);
        let node = Arc::downgrade(&self.node);
        context.info.start(config.info_threads.get() as usize, move || {
            let node = node.upgrade()?;
            Some(Box::new(move |request| {
                // The rest of a request waits behind other requests.
                if let Some(rest) = info::serve_info(&node, request) {
                    node.service.info.submit(rest);
                }
            }))
        })?;
        let node = Arc::downgrade(&self.node);
        context.batches.workers.start(config.batch_index_threads.get() as usize, move || {
            Some(Box::new(BatchWorker::new(executor(&*node.upgrade()?))))
        })?;
        let service = Arc::downgrade(context);
        context.compression.workers.start(transaction::thread_count(), move || {
            Some(Box::new(CompressionWorker::new(service.upgrade()?)))
        })?;
        let node = Arc::downgrade(&self.node);
        context.transactions.pool.start(transaction::thread_count(), move || {
            Some(Box::new(PoolWorker::new(executor(&*node.upgrade()?))))
        })
    }

    /// Starts the thread that watches whether disks answer, if any namespace reads records from disk.
    fn start_disk_watch(&mut self) -> io::Result<()> {
        if !self.node.namespaces.iter().any(|namespace| namespace.storage.is_on_disk()) {
            return Ok(());
        }
        let (node, is_stopping) = (Arc::clone(&self.node), Arc::clone(&self.is_stopping));
        self.background_threads.push(restarting("disk-watch", move || {
            let (transactions, batches) = (&node.service.transactions, &node.service.batches);
            while !is_stopping.load(Ordering::Acquire) {
                cf::fault_point!("disk-watch");
                transactions.disk_watch.check(transactions);
                batches.workers.substitute(transactions.disk_watch.hanging(DiskCaller::Batches));
                std::thread::park_timeout(DISK_WATCH_PERIOD);
            }
        })?);
        Ok(())
    }

    /// Starts the service threads, and the thread that distributes connections among them.
    fn start_service_threads(&mut self, thread_count: usize) -> io::Result<()> {
        for position in 0..thread_count {
            start_service_thread(&self.node, position)?;
        }
        let (node, is_stopping) = (Arc::clone(&self.node), Arc::clone(&self.is_stopping_sizing));
        self.sizing_thread = Some(restarting("pool-sizing", move || {
            let wanted = || node.config.service.service_threads.get() as usize;
            node.service
                .pool
                .run_sizing(&is_stopping, wanted, |position| start_service_thread(&node, position));
        })?);
        Ok(())
    }

    fn start_accepting(&mut self, doors: Vec<service::Door>) -> io::Result<()> {
        let context = Arc::clone(&self.node.service);
        let stop = Arc::clone(&self.stop_accepting);
        self.accept_thread = Some(threads::spawn_restarting("accept", move || {
            service::accept_clients(&doors, &context, &stop)
        })?);
        Ok(())
    }

    fn start_info_port(&mut self, listeners: Vec<service::Listener>) -> io::Result<()> {
        if listeners.is_empty() {
            return Ok(());
        }
        let (node, stop) = (Arc::clone(&self.node), Arc::clone(&self.stop_accepting));
        self.info_port_thread =
            Some(threads::spawn_restarting("info-port", move || info::serve_port(&node, &listeners, &stop))?);
        Ok(())
    }

    fn start_metrics_port(&mut self, listeners: Vec<service::Listener>) -> io::Result<()> {
        if listeners.is_empty() {
            return Ok(());
        }
        for listener in &listeners {
            cf::info!(InfoPort, "metrics port {}", listener.local_addr()?);
        }
        let (node, stop) = (Arc::clone(&self.node), Arc::clone(&self.stop_accepting));
        self.metrics_port_thread = Some(threads::spawn_restarting("metrics-port", move || {
            exporter::serve(&node, &listeners, &stop)
        })?);
        Ok(())
    }

    /// Stops everything. The first call reports the result.
    ///
    /// # Errors
    /// When acknowledged data is not on disk; the log says which.
    fn stop_now(&mut self) -> Result<Ending, String> {
        leave_others(&self.node);
        self.stop_accepting.signal();
        // The stop does not wait for operations that only read.
        self.node.service.transactions.stop();
        self.node.service.queries.begin_stop();
        if let Some(membership) = self.node.membership.get() {
            membership.stop();
        }
        join(self.accept_thread.take());
        join(self.info_port_thread.take());
        join(self.metrics_port_thread.take());
        self.is_stopping_sizing.store(true, Ordering::Release);
        join(self.sizing_thread.take().inspect(|thread| thread.thread().unpark()));
        let patience = StopPatience::start();
        let mut running = end_work(&self.node, &patience);
        self.is_stopping.store(true, Ordering::Release);
        for namespace in self.node.namespaces.iter() {
            namespace.storage.stop();
        }
        running.extend(self.node.service.info.stop_until(patience.deadline()));
        if let Some(workers) = &self.node.service.security {
            workers.stop();
        }
        join(self.background_threads.drain(..).inspect(|thread| thread.thread().unpark()));
        if std::mem::replace(&mut self.is_closed, true) {
            return Ok(Ending::Clean);
        }
        // Threads that still run may write later, also to blocks that a clean header would exclude.
        let close = |namespace: &Arc<Namespace>| {
            if running.is_empty() { namespace.storage.close() } else { namespace.storage.save() }
        };
        if !self.node.namespaces.iter().map(close).fold(true, |all, one| all & one) {
            return Err("acknowledged records are lost: see the lines before".to_owned());
        }
        if running.is_empty() {
            return Ok(Ending::Clean);
        }
        let is_backed = self.node.namespaces.iter().any(|namespace| namespace.config().storage.is_backed());
        Ok(Ending::Unclean(still_at_work(&running, is_backed)))
    }
}

impl Run for Server {
    fn obstacles(config: &Config) -> Vec<Obstacle> {
        preflight::obstacles(config)
    }

    fn greeting(&self) -> String {
        let names: Vec<&str> = self.node.namespaces.iter().map(|namespace| namespace.name()).collect();
        let address = self.node.advertised.standard.first().map_or("127.0.0.1:3000", String::as_str);
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "3000"));
        let namespace = names.first().unwrap_or(&"test");
        format!(
            "\nFerrospike {FERROSPIKE_VERSION} is ready.\n\n  \
             connect to   {address}\n  \
             namespaces   {} (in memory: nothing is kept when it stops)\n  \
             stop it      with Ctrl-C\n\n\
             In Python, after `pip install aerospike`:\n\n    \
             import aerospike\n    \
             client = aerospike.client({{\"hosts\": [(\"{host}\", {port})]}}).connect()\n    \
             client.put((\"{namespace}\", \"demo\", \"key\"), {{\"greeting\": \"hello\", \"count\": 1}})\n    \
             print(client.get((\"{namespace}\", \"demo\", \"key\")))\n    \
             client.close()\n",
            names.join(", ")
        )
    }

    fn dump(&self) {
        ticker::write_all(&self.node);
    }

    fn reload(&self) {
        self.node.tls.reload();
    }

    fn losses(&self) -> Losses {
        let node = Arc::downgrade(&self.node);
        Box::new(move || {
            let Some(node) = node.upgrade() else { return Vec::new() };
            node.namespaces.iter().flat_map(|namespace| namespace.storage.losses()).collect()
        })
    }

    fn stop(mut self) -> Result<Ending, String> {
        self.stop_now()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The log has reported any loss.
        let _ = self.stop_now();
    }
}

/// An executor for one thread.
fn executor(node: &Node) -> Executor {
    Executor::new(Arc::clone(&node.service.transactions))
}

/// The shared state of the service threads, made before them.
fn service_context(
    config: &Arc<Config>,
    metrics: &Arc<ServerMetrics>,
    access_control: Option<Arc<AccessControl>>,
    (transactions, queries): (Arc<TransactionContext>, Queries),
) -> ServiceContext {
    ServiceContext {
        config: Arc::clone(config),
        metrics: Arc::clone(metrics),
        connection_count: ConnectionCount::new(Arc::clone(metrics)),
        admin_connection_count: ConnectionCount::new(Arc::clone(metrics)),
        info: Workers::new("info"),
        security: access_control.as_ref().map(|_| SecurityWorkers::new()),
        access_control,
        queries: Arc::new(queries),
        transactions,
        batches: BatchPool::new(),
        pool: ServicePool::new(),
        replies: ReplyBudget::new(Arc::clone(metrics)),
        inflated: ReplyBudget::of_inflated(Arc::clone(metrics)),
        compression: MessageCompression::new(),
    }
}

/// Starts one more service thread.
fn start_service_thread(node: &Node, position: usize) -> io::Result<()> {
    ServiceThread::start(&node.service, position, executor(node))
}

/// Starts a thread that restarts after a panic; `body` ends when the server stops.
fn restarting(name: &str, body: impl Fn() + Send + 'static) -> io::Result<threads::Handle> {
    threads::spawn_restarting(name, move || {
        body();
        Ok(())
    })
}

/// Waits for threads to end. Panics of threads have been logged.
fn join(threads: impl IntoIterator<Item = threads::Handle>) {
    for thread in threads {
        let _ = thread.join();
    }
}

/// The addresses that clients are told, for the bound ones.
fn advertise(config: &Config, access: &AccessParams, bound: &[SocketAddr]) -> Result<Advertised, StartError> {
    Advertised::new(access, bound)
        .map_err(|error| StartError::Listen(access_obstacle(config, &error).located(config)))
}

/// The cluster in which the node begins: a cluster of this node alone if it has no ports for others.
fn cluster_of(config: &Config) -> Result<Cluster, StartError> {
    let node_id = own_node_id(config)?;
    config.service.node_id.set(node_id);
    cf::info!(As, "node-id {node_id:x}");
    let network = &config.network;
    let is_clustered = network.is_clustered();
    if !is_clustered && network.has_heartbeat_port() {
        cf::warning!(Hb, "other nodes cannot connect: there is no port in network.fabric");
    }
    Ok(if is_clustered { Cluster::looking_for_others(node_id) } else { Cluster::alone(node_id) })
}

/// The system metadata from the work directory. With the developer configuration there may be none.
fn open_smd(config: &Config, cluster: &Cluster) -> Result<Arc<Smd>, StartError> {
    let folder = config.work_folder();
    if folder.is_none() {
        let text = "there is no work directory: indexes, modules and truncation are forgotten at the stop";
        if config.namespaces.iter().any(|namespace| namespace.storage.is_backed()) {
            cf::warning!(Smd, "{text}");
        } else {
            cf::info!(Smd, "{text}");
        }
    }
    let smd = Smd::open(folder.as_deref(), cluster.own_key());
    Ok(Arc::new(smd.map_err(StartError::SystemMetadata)?))
}

/// Registers the parts of the server that act on metadata: on present items and on every change.
fn listen_to_metadata(node: &Node) {
    smd::follow_eviction(&node.smd, &node.namespaces);
    smd::follow_truncation(&node.smd, &node.namespaces);
    node.service.transactions.functions.follow(&node.smd);
    let (indexes, namespaces) = (Arc::clone(&node.indexes), Arc::clone(&node.namespaces));
    node.smd.listen(Module::Sindex, move |items: &[&SmdItem], occasion| {
        for item in items {
            indexes.apply(&namespaces, &item.key, item.value.as_deref(), occasion == Occasion::Start);
        }
    });
    let own: Vec<&str> = node.namespaces.iter().map(|namespace| namespace.name()).collect();
    for module in [Module::Evict, Module::Truncate, Module::Sindex] {
        smd::report_elsewhere(module, &node.smd.live_items(module), &own);
    }
    sindex::populate_all(&node.namespaces, &node.indexes);
}

/// Logs the main properties of a namespace.
fn announce_namespace(namespace: &Namespace) {
    let (config, storage) = (namespace.config(), &namespace.storage);
    cf::info!(
        Namespace,
        "{{{}}} storage-engine {}: {} bytes, stripes or devices {}, sprigs per partition {}, nsup-period {}",
        namespace.name(),
        config.storage.engine.name(),
        storage.total_bytes(),
        storage.device_stats().count(),
        config.params.partition_tree_sprigs.get(),
        config.params.nsup_period.get()
    );
}
