/**
 * Effect Cluster over cut-through: runners in threads of one process reach each
 * other through shared memory, and with `TcpTransport` in the session layer
 * those elsewhere over TCP, under the same addresses.
 *
 * {@link layer} stands where `NodeClusterSocket.layer` does. Which runners there
 * are and who holds which shards is kept by one thread, the one that provides
 * {@link layerHost}; runners of all threads ask it over cut-through. When a
 * runner's thread dies, its shards are free at once, without waiting for locks to
 * expire.
 *
 * Messages are not stored unless there is a database: a runner that dies takes
 * the calls it was working on with it, and entities whose messages are `Persisted`
 * need the storage `"sql"` or one of your own.
 *
 * @since 0.1.0
 */
import * as Application from "@cut-through/core/Application"
import * as Connection from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { SessionLayer } from "@cut-through/core/session/SessionLayer"
import type * as SessionError from "@cut-through/core/SessionError"
import * as NodeCrypto from "@effect/platform-node/NodeCrypto"
import * as Clock from "effect/Clock"
import { PersistenceError } from "effect/cluster/ClusterError"
import * as MessageStorage from "effect/cluster/MessageStorage"
import type { RunnerAddress } from "effect/cluster/RunnerAddress"
import * as RunnerHealth from "effect/cluster/RunnerHealth"
import * as Runners from "effect/cluster/Runners"
import * as RunnerStorage from "effect/cluster/RunnerStorage"
import type { Sharding } from "effect/cluster/Sharding"
import * as ShardingConfig from "effect/cluster/ShardingConfig"
import * as SocketRunner from "effect/cluster/SocketRunner"
import * as SqlMessageStorage from "effect/cluster/SqlMessageStorage"
import * as SqlRunnerStorage from "effect/cluster/SqlRunnerStorage"
import type { ConfigError } from "effect/Config"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcClient from "effect/rpc/RpcClient"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as RpcServer from "effect/rpc/RpcServer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Socket from "effect/socket/Socket"
import * as SocketServer from "effect/socket/SocketServer"
import type { SqlClient } from "effect/sql/SqlClient"
import * as CutThroughSocket from "./CutThroughSocket.ts"
import * as CutThroughSocketServer from "./CutThroughSocketServer.ts"
import { resolve, type Target } from "./internal/target.ts"

// -----------------------------------------------------------------------------
// between runners
// -----------------------------------------------------------------------------

/** How long a runner may take to answer a connect, as `NodeClusterSocket` has it. */
const OPEN_TIMEOUT = 1000

/**
 * A socket for an RPC client, which takes a write that fails for a defect. Of a
 * connection that has broken its reader says so, to all who wait for an answer.
 */
const socketTo = (target: Target): Effect.Effect<Socket.Socket, never, Application.Application> =>
  Effect.map(CutThroughSocket.make(target, { openTimeout: OPEN_TIMEOUT }), ({ reader, writer }) =>
    Socket.make({
      reader,
      writer: Effect.map(writer, ({ write, writeAll }) => ({
        write: (chunk) => Effect.ignore(write(chunk)),
        writeAll: (chunks) => Effect.ignore(writeAll(chunks))
      }))
    })
  )

const targetOf = ({ host, port }: RunnerAddress): Target => ({ host, port })

/**
 * How runners call each other: a socket to the runner's address, cut-through
 * where a runner of this process listens there.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerClientProtocol: Layer.Layer<
  Runners.RpcClientProtocol,
  never,
  RpcSerialization.RpcSerialization | Application.Application
> = Layer.effect(
  Runners.RpcClientProtocol,
  Effect.gen(function* () {
    const serialization = yield* RpcSerialization.RpcSerialization
    const application = yield* Application.Application
    return {
      codecFor: serialization.codecFor,
      make: (address) =>
        Effect.flatMap(socketTo(targetOf(address)), (socket) =>
          Effect.provideService(RpcClient.makeProtocolSocket(), Socket.Socket, socket)
        ).pipe(
          Effect.provideService(Application.Application, application),
          Effect.provideService(RpcSerialization.RpcSerialization, serialization)
        )
    }
  })
)

/**
 * Where a runner is called: a listener on `ShardingConfig.runnerListenAddress`,
 * or else on its `runnerAddress`. It takes connections of this process, and with
 * `TcpTransport` also those that come over TCP.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerSocketServer: Layer.Layer<
  SocketServer.SocketServer,
  SocketServer.SocketServerError,
  ShardingConfig.ShardingConfig | Application.Application
> = Layer.unwrap(
  Effect.map(ShardingConfig.ShardingConfig, ({ runnerAddress, runnerListenAddress }) => {
    const address = Option.getOrUndefined(Option.orElse(runnerListenAddress, () => runnerAddress))
    return address === undefined
      ? Layer.effectContext(
          Effect.die(
            new Error("a runner listens on ShardingConfig.runnerAddress, which is None: set it, or clientOnly")
          )
        )
      : CutThroughSocketServer.layer(targetOf(address))
  })
)

/** Of a backlog that is full only for a moment nobody dies. */
const again = { times: 3, schedule: Schedule.spaced(100) }

/**
 * Takes a runner for alive when its address can be connected to, and closes the
 * connection at once: a runner whose thread has died is told within half a
 * second, where a ping waits for 10. A thread that is only busy is alive.
 *
 * What fails on this side, such as a quota of the application's, says nothing
 * about the runner: it counts as alive.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerRunnerHealth: Layer.Layer<RunnerHealth.RunnerHealth, never, Application.Application> = Layer.effect(
  RunnerHealth.RunnerHealth,
  Effect.map(Application.Application, (application) => ({
    isAlive: (address) =>
      resolve(targetOf(address), "127.0.0.1").pipe(
        Effect.flatMap((endpoint) => application.connect(endpoint)),
        Effect.scoped,
        Effect.as(true),
        Effect.catchIf(isOwnFault, () => Effect.succeed(true)),
        Effect.timeout(OPEN_TIMEOUT),
        Effect.retry(again),
        Effect.orElseSucceed(() => false)
      )
  }))
)

const isOwnFault = ({ reason }: SessionError.SessionError): boolean =>
  reason._tag === "QuotaExceeded" || reason._tag === "AllocFailed" || reason._tag === "Closed"

// -----------------------------------------------------------------------------
// who has which shard
// -----------------------------------------------------------------------------

/**
 * How long locks are held.
 *
 * @category models
 * @since 0.1.0
 */
export interface StorageOptions {
  /**
   * After how long without a refresh a shard's lock is anybody's, and a runner is
   * forgotten. Give it what `ShardingConfig.shardLockExpiration` is. Default 35
   * seconds, as there.
   */
  readonly shardLockExpiration?: Duration.Input | undefined
}

interface Lock {
  readonly address: string
  expires: number
}

/** The state of the cluster, in the memory of one thread. Times are those of Effect's clock. */
class Memory {
  private readonly expiration: number
  private readonly runners = new Map<string, { readonly runner: string; healthy: boolean; heard: number }>()
  /** An address has one and the same for ever. */
  private readonly machineIds = new Map<string, number>()
  private readonly locks = new Map<string, Lock>()
  /** Who has spoken for an address last: when that one dies, the runner has. */
  private readonly speakers = new Map<string, unknown>()

  /** Whether a runner that nobody reaches keeps its locks: it may be at work all the same. */
  private readonly keepsLocks: boolean

  constructor(options: StorageOptions = {}, keepsLocks: boolean = false) {
    const { shardLockExpiration = ShardingConfig.defaults.shardLockExpiration } = options
    this.expiration = Duration.toMillis(Duration.fromInputUnsafe(shardLockExpiration))
    this.keepsLocks = keepsLocks
  }

  /** The storage as one of those who use it sees it. */
  of(speaker: unknown): RunnerStorage.Encoded {
    const speak = (address: string, now: number): void => {
      this.speakers.set(address, speaker)
      const entry = this.runners.get(address)
      if (entry !== undefined) entry.heard = now
    }
    return {
      getRunners: this.now((now) => {
        for (const [address, { heard }] of this.runners) {
          if (heard + this.expiration <= now) this.runners.delete(address)
        }
        return Array.from(this.runners.values(), ({ healthy, runner }) => [runner, healthy])
      }),
      register: (address, runner, healthy) =>
        this.now((now) => {
          speak(address, now)
          this.runners.set(address, { runner, healthy, heard: now })
          const id = this.machineIds.get(address) ?? this.machineIds.size
          this.machineIds.set(address, id)
          return id
        }),
      unregister: (address) => Effect.sync(() => this.remove(address)),
      setRunnerHealth: (address, healthy) =>
        Effect.sync(() => {
          const entry = this.runners.get(address)
          if (entry !== undefined) entry.healthy = healthy
          if (!healthy && !this.keepsLocks) this.releaseAll(address)
        }),
      acquire: (address, shards) =>
        this.now((now) => {
          speak(address, now)
          return shards.filter((shard) => {
            const lock = this.locks.get(shard)
            if (lock !== undefined && lock.address !== address && lock.expires > now) return false
            this.locks.set(shard, { address, expires: now + this.expiration })
            return true
          })
        }),
      // Even what has expired is renewed, as long as nobody else has taken it.
      refresh: (address, shards) =>
        this.now((now) => {
          speak(address, now)
          return shards.filter((shard) => {
            const lock = this.locks.get(shard)
            if (lock?.address !== address) return false
            lock.expires = now + this.expiration
            return true
          })
        }),
      release: (address, shard) =>
        Effect.sync(() => {
          if (this.locks.get(shard)?.address === address) this.locks.delete(shard)
        }),
      releaseAll: (address) => Effect.sync(() => this.releaseAll(address))
    }
  }

  /** Its runners have died, unless others have come under their addresses. */
  died(speaker: unknown): void {
    for (const [address, last] of this.speakers) {
      if (last === speaker) this.remove(address)
    }
  }

  private remove(address: string): void {
    this.speakers.delete(address)
    this.runners.delete(address)
    this.releaseAll(address)
  }

  private releaseAll(address: string): void {
    for (const [shard, lock] of this.locks) {
      if (lock.address === address) this.locks.delete(shard)
    }
  }

  private now<A>(f: (now: number) => A): Effect.Effect<A> {
    return Effect.map(Clock.currentTimeMillis, f)
  }
}

/**
 * Where runners are registered and shards are locked, in memory: for any number
 * of runners that share it. A lock is held by one runner until it is released,
 * its runner is unregistered or found to be unhealthy, or nobody has refreshed it
 * for too long.
 *
 * (`RunnerStorage.makeMemory` is for a single runner: it gives every shard to
 * whoever asks.)
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeRunnerStorage = (options?: StorageOptions): RunnerStorage.RunnerStorage["Service"] =>
  RunnerStorage.makeEncoded(new Memory(options).of(undefined))

/**
 * {@link makeRunnerStorage} as the `RunnerStorage` of a program: for runners that
 * are all fibers of it, with the storage `"byo"`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerRunnerStorage = (options?: StorageOptions): Layer.Layer<RunnerStorage.RunnerStorage> =>
  Layer.sync(RunnerStorage.RunnerStorage, () => makeRunnerStorage(options))

// -----------------------------------------------------------------------------
// the storage of the host
// -----------------------------------------------------------------------------

const address = Schema.String
const shards = Schema.Array(Schema.String)

/** `RunnerStorage.Encoded` from another thread. */
class StorageRpcs extends RpcGroup.make(
  Rpc.make("GetRunners", { success: Schema.Array(Schema.Tuple([Schema.String, Schema.Boolean])) }),
  Rpc.make("Register", {
    payload: { address, runner: Schema.String, healthy: Schema.Boolean },
    success: Schema.Int,
    error: PersistenceError
  }),
  Rpc.make("Unregister", { payload: { address }, error: PersistenceError }),
  Rpc.make("SetRunnerHealth", { payload: { address, healthy: Schema.Boolean }, error: PersistenceError }),
  Rpc.make("Acquire", { payload: { address, shards }, success: shards, error: PersistenceError }),
  Rpc.make("Refresh", { payload: { address, shards }, success: shards, error: PersistenceError }),
  Rpc.make("Release", { payload: { address, shard: Schema.String }, error: PersistenceError }),
  Rpc.make("ReleaseAll", { payload: { address }, error: PersistenceError })
) {}

const handlersOf = (storage: RunnerStorage.Encoded) =>
  StorageRpcs.of({
    GetRunners: () => Effect.orDie(storage.getRunners),
    Register: ({ address, healthy, runner }) => storage.register(address, runner, healthy),
    Unregister: ({ address }) => storage.unregister(address),
    SetRunnerHealth: ({ address, healthy }) => storage.setRunnerHealth(address, healthy),
    Acquire: ({ address, shards: [first, ...others] }) =>
      first === undefined ? Effect.succeed([]) : storage.acquire(address, [first, ...others]),
    Refresh: ({ address, shards }) => storage.refresh(address, [...shards]),
    Release: ({ address, shard }) => storage.release(address, shard),
    ReleaseAll: ({ address }) => storage.releaseAll(address)
  })

/**
 * Where the storage of {@link layerHost} is found unless another endpoint is
 * given: a loopback address of the session layer, and no port of the machine.
 *
 * @category constants
 * @since 0.1.0
 */
export const storageEndpoint: Endpoint.Endpoint = Endpoint.tcp("127.0.0.1", 34430)

/**
 * How the storage of a cluster is offered.
 *
 * @category models
 * @since 0.1.0
 */
export interface HostOptions extends StorageOptions {
  /** Where. Default {@link storageEndpoint}. */
  readonly endpoint?: Endpoint.Endpoint | undefined
  /**
   * Who reaches it: the applications of this session layer (`"local"`, the
   * default), or also runners of other machines, under an `endpoint` that they
   * reach (`"both"`). Whoever can connect to that decides who has which shards.
   * A runner that nobody reaches may have lost its network only: its locks are
   * kept until they expire.
   */
  readonly scope?: "local" | "both" | undefined
}

/**
 * Keeps the storage of a cluster in this thread, for runners of all threads of
 * the process: once in the program, beside the session layer. It has an
 * application of its own, which nobody outside of the session layer can reach
 * unless `scope` says so: no port is opened, with `TcpTransport` either. Keep it
 * longer than the runners: one that leaves gives back what it holds.
 *
 * When the thread of a runner dies, the runner is unregistered and its shards are
 * free as soon as what it had asked for is done. A runner that has only lost its
 * connection keeps them until they expire.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerHost = (
  options: HostOptions = {}
): Layer.Layer<RunnerStorage.RunnerStorage, SessionError.SessionError, SessionLayer> =>
  Layer.effect(
    RunnerStorage.RunnerStorage,
    Effect.gen(function* () {
      const memory = new Memory(options, options.scope === "both")
      const application = yield* Application.make({ name: "cluster storage", scope: options.scope ?? "local" })
      const listener = yield* application.listen(options.endpoint ?? storageEndpoint)
      yield* Effect.forkScoped(listener.run((connection) => serve(memory, connection)))
      return RunnerStorage.makeEncoded(memory.of(application))
    })
  ).pipe(Layer.provide(layerStorageSerialization))

const layerStorageSerialization = RpcSerialization.layerSchemaBinary()

/** A server for each connection, so that what is asked for is known to come from there. */
const serve = (
  memory: Memory,
  connection: Connection.Connection
): Effect.Effect<void, never, RpcSerialization.RpcSerialization | Scope.Scope> =>
  Effect.gen(function* () {
    const socket = yield* CutThroughSocket.fromAccepted(Effect.succeed(connection))
    const over = Deferred.makeUnsafe<void>()
    const server = SocketServer.SocketServer.of({
      address: connection.info.local,
      run: (handler) =>
        // It has one connection, and what a handler fails with is none of its own errors.
        Effect.ignoreCause(handler(socket)).pipe(
          Effect.ensuring(Deferred.succeed(over, undefined)),
          Effect.andThen(Effect.never)
        )
    })
    const protocol = yield* Effect.provideService(RpcServer.makeProtocolSocketServer, SocketServer.SocketServer, server)
    const answering = RpcServer.make(StorageRpcs, { disableTracing: true }).pipe(
      Effect.provideService(RpcServer.Protocol, protocol),
      Effect.provide(StorageRpcs.toLayer(handlersOf(memory.of(connection))))
    )
    yield* Effect.raceFirst(answering, Deferred.await(over))
    if (hasDied(connection)) memory.died(connection)
  })

/** Of a connection that has ended: because the other side's thread did? */
const hasDied = (connection: Connection.Connection): boolean => {
  let isSo = false
  Connection.takeUnsafe(
    connection,
    (bytes) => new Uint8Array(bytes),
    (exit) => {
      const error = Option.getOrUndefined(Exit.findErrorOption(exit))
      isSo = error !== undefined && "reason" in error && error.reason._tag === "PeerDied"
    }
  )()
  return isSo
}

/**
 * The storage of {@link layerHost}, from wherever the application is.
 *
 * Whoever is there before the host waits for it, and looks four times a second.
 * What is asked for when the connection breaks fails with a `PersistenceError`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerHostStorage = (
  endpoint: Endpoint.Endpoint = storageEndpoint
): Layer.Layer<RunnerStorage.RunnerStorage, never, Application.Application> =>
  Layer.effect(
    RunnerStorage.RunnerStorage,
    Effect.gen(function* () {
      const client = yield* RpcClient.make(StorageRpcs, { disableTracing: true })
      return RunnerStorage.makeEncoded({
        getRunners: asPersistence(Effect.map(client.GetRunners(), (runners) => runners.slice())),
        register: (address, runner, healthy) => asPersistence(client.Register({ address, runner, healthy })),
        unregister: (address) => asPersistence(client.Unregister({ address })),
        setRunnerHealth: (address, healthy) => asPersistence(client.SetRunnerHealth({ address, healthy })),
        acquire: (address, shards) =>
          asPersistence(Effect.map(client.Acquire({ address, shards }), (acquired) => acquired.slice())),
        refresh: (address, shards) => asPersistence(client.Refresh({ address, shards })),
        release: (address, shard) => asPersistence(client.Release({ address, shard })),
        releaseAll: (address) => asPersistence(client.ReleaseAll({ address }))
      })
    })
  ).pipe(
    Layer.provide(
      Layer.effect(
        RpcClient.Protocol,
        RpcClient.makeProtocolSocket({ retryTransientErrors: true, retryPolicy: Schedule.spaced(250) })
      )
    ),
    Layer.provide(Layer.effect(Socket.Socket, socketTo(endpoint))),
    Layer.provide(layerStorageSerialization)
  )

const asPersistence = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, PersistenceError, R> =>
  Effect.mapError(effect, (error) =>
    error instanceof PersistenceError ? error : new PersistenceError({ cause: error })
  )

// -----------------------------------------------------------------------------
// a runner
// -----------------------------------------------------------------------------

/**
 * Where a cluster keeps what it knows: in the memory of the thread with
 * {@link layerHost} (`"memory"`), in a database (`"sql"`), or wherever you say
 * (`"byo"`, bring your own).
 *
 * @category models
 * @since 0.1.0
 */
export type Storage = "memory" | "sql" | "byo"

/**
 * How to run.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<ClientOnly extends boolean = boolean, S extends Storage = Storage> {
  /** How calls between runners are written; the same for all of them. Default `"binary"`. */
  readonly serialization?: "binary" | "ndjson" | undefined
  /** Most bytes of one message between runners. Default: those of `RpcSerialization`. */
  readonly serializationMaxBufferSize?: number | "unbounded" | undefined
  /** Calls entities, and has none. Default false. */
  readonly clientOnly?: ClientOnly | undefined
  /**
   * Default `"memory"`: messages are not stored. `"sql"` keeps runners, locks and
   * messages in the database of any `SqlClient`, for example of `PgClient.layer` of
   * `@effect/sql-pg`: a runner that dies is found by its heartbeat at the latest,
   * after `shardLockExpiration`. `"byo"` requires a `MessageStorage` and a `RunnerStorage`.
   */
  readonly storage?: S | undefined
  /** Where the host's storage is, for `"memory"`. Default {@link storageEndpoint}. */
  readonly storageEndpoint?: Endpoint.Endpoint | undefined
  /**
   * How runners find out that another is gone: by connecting to it
   * (`"connect"`, the default: {@link layerRunnerHealth}), or by a `"ping"`, which
   * also a thread that hangs does not answer, after 10 seconds.
   */
  readonly runnerHealth?: "connect" | "ping" | undefined
  /** What is not given comes from the environment. */
  readonly shardingConfig?: Partial<ShardingConfig.ShardingConfig["Service"]> | undefined
}

/**
 * A runner of a cluster, or with `clientOnly` a client of it: in the place of
 * `NodeClusterSocket.layer`. Each runner has an address of its own,
 * `shardingConfig.runnerAddress`, and one {@link layerHost} is somewhere in the
 * process unless the storage is another.
 *
 * **Example** (An entity)
 *
 * ```ts
 * import { CutThroughCluster, CutThroughNode } from "@cut-through/platform"
 * import { Effect, Layer, Option, Schema } from "effect"
 * import { Entity, RunnerAddress } from "effect/cluster"
 * import { Rpc } from "effect/rpc"
 *
 * const Greeter = Entity.make("Greeter", [Rpc.make("Greet", { payload: { name: Schema.String }, success: Schema.String })])
 * const greeters = Greeter.toLayer({ Greet: ({ payload }) => Effect.succeed(`hello ${payload.name}`) })
 *
 * const runner = greeters.pipe(
 *   Layer.provideMerge(CutThroughCluster.layer({
 *     shardingConfig: {
 *       runnerAddress: Option.some(RunnerAddress.make("127.0.0.1", 34431)),
 *       entityMessagePollInterval: "100 millis"
 *     }
 *   })),
 *   Layer.provide(CutThroughCluster.layerHost()),
 *   Layer.provide(CutThroughNode.layer)
 * )
 * const program = Effect.gen(function*() {
 *   const client = yield* Greeter.client
 *   return yield* client("anybody").Greet({ name: "world" })
 * })
 *
 * await Effect.runPromise(Effect.provide(program, runner)) // => "hello world"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = <const ClientOnly extends boolean = false, const S extends Storage = "memory">(
  options: Options<ClientOnly, S> = {}
): Layer.Layer<
  Sharding | Runners.Runners | ("byo" extends S ? never : MessageStorage.MessageStorage),
  ConfigError | (ClientOnly extends true ? never : SocketServer.SocketServerError),
  | Application.Application
  | ("byo" extends S ? MessageStorage.MessageStorage | RunnerStorage.RunnerStorage : never)
  | ("sql" extends S ? SqlClient : never)
> => {
  const runner: Layer.Layer<any, any, any> =
    options.clientOnly === true
      ? Layer.provide(SocketRunner.layerClientOnly, layerClientProtocol)
      : SocketRunner.layer.pipe(
          Layer.provide(
            options.runnerHealth === "ping"
              ? RunnerHealth.layerPing.pipe(Layer.provide(Runners.layerRpc), Layer.provide(layerClientProtocol))
              : layerRunnerHealth
          ),
          Layer.provide([layerSocketServer, layerClientProtocol])
        )
  return runner.pipe(
    Layer.provideMerge(messageStorageOf(options.storage)),
    Layer.provide(runnerStorageOf(options)),
    Layer.provide(ShardingConfig.layerFromEnv(options.shardingConfig)),
    Layer.provide(
      options.serialization === "ndjson"
        ? RpcSerialization.layerNdjsonWith({ maxBufferSize: options.serializationMaxBufferSize })
        : RpcSerialization.layerSchemaBinary({ maxFrameSize: options.serializationMaxBufferSize })
    )
  )
}

const messageStorageOf = (storage: Storage = "memory"): Layer.Layer<any, any, any> => {
  switch (storage) {
    case "memory":
      return MessageStorage.layerNoop
    case "sql":
      return Layer.provide(SqlMessageStorage.layer, NodeCrypto.layerDigest)
    case "byo":
      return Layer.empty as Layer.Layer<any>
  }
}

const runnerStorageOf = ({ storage = "memory", storageEndpoint }: Options): Layer.Layer<any, any, any> => {
  switch (storage) {
    case "memory":
      return layerHostStorage(storageEndpoint)
    case "sql":
      return Layer.orDie(SqlRunnerStorage.layer)
    case "byo":
      return Layer.empty as Layer.Layer<any>
  }
}
