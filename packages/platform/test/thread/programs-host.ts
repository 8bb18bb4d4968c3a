/** Where programs run whose applications live in several threads: a session layer in this thread, and a few others. */
import * as Application from "@cut-through/core/Application"
import type { Connection, Info } from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import type { ConnectionRequest, Listener } from "@cut-through/core/Listener"
import { CopyBytes } from "@cut-through/core/memory/SharedMemory"
import type { AppEvent } from "@cut-through/core/session/AppEvent"
import { type AttachOptions, SessionLayer } from "@cut-through/core/session/SessionLayer"
import type { SessionError } from "@cut-through/core/SessionError"
import * as NativeCopy from "@cut-through/platform/NativeCopy"
import * as Threads from "@cut-through/platform/thread/Host"
import { Poller } from "@cut-through/platform/thread/Poller"
import * as Protocol from "@cut-through/platform/thread/Protocol"
import { assert } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Pull from "effect/Pull"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { MessageChannel, type Transferable, Worker } from "node:worker_threads"
import { addNamespaces, type Host, type HostOptions, layerServices, Memory } from "../../../core/test/programs/host.ts"
import {
  decodeExit,
  decodeInfo,
  type EncodedInfo,
  type Ended,
  type Operation,
  type Order,
  type Report,
  Rest
} from "./programs-wire.ts"

// ---------------------------------------------------------------------------
// threads
// ---------------------------------------------------------------------------

type AtRest = Extract<Report, { readonly say: "at rest" }>

/** A thread, and what was asked of it and has no answer yet. */
class Thread {
  /** Whether anything was asked of it since the program began. */
  isUsed = false
  isDead = false
  /** What a connection there was like when the thread last came to rest. */
  readonly infos = new Map<number, Info>()
  /** Applications that are attached there, or about to be, by what they are called. */
  readonly attached = new Set<number>()
  /** What nobody has expected to happen there. */
  failure: unknown
  private readonly worker: Worker
  private readonly ready: Promise<void>
  private lastId = 0
  private readonly asked = new Map<number, (ended: Ended) => void>()
  private readonly resting = new Map<number, (report: AtRest) => void>()
  private readonly touch: () => void

  constructor(eagerness: object | undefined, touch: () => void) {
    this.touch = touch
    this.worker = new Worker(new URL("./programs-worker.ts", import.meta.url), { workerData: eagerness })
    this.worker.on("error", (error) => this.end(error))
    this.worker.on("exit", () => this.end(this.isDead ? undefined : "a thread has ended by itself"))
    let isReady = () => {}
    this.ready = new Promise((resolve) => (isReady = resolve))
    this.worker.on("message", (report: Report) => {
      switch (report.say) {
        case "ready":
          return isReady()
        case "done": {
          if (report.exit.how === "defect") this.failure ??= report.exit.text
          const answer = this.asked.get(report.id)
          this.asked.delete(report.id)
          this.touch()
          return answer?.(report.exit)
        }
        case "at rest": {
          const answer = this.resting.get(report.id)
          this.resting.delete(report.id)
          return answer?.(report)
        }
      }
    })
  }

  private end(failure: unknown): void {
    if (failure !== undefined) this.failure ??= failure
    this.isDead = true
    for (const answer of this.asked.values()) answer({ how: "defect", text: "its thread has died" })
    this.asked.clear()
    for (const answer of this.resting.values()) answer({ say: "at rest", id: 0, activity: 0, infos: [], left: 0 })
    this.resting.clear()
  }

  private post(order: Order, transfer: ReadonlyArray<Transferable> = []): void {
    this.worker.postMessage(order, transfer)
  }

  /** Has something done, and returns what interrupts it. */
  ask(operation: Operation, answer: (ended: Ended) => void): () => void {
    if (this.isDead) {
      answer({ how: "defect", text: "its thread has died" })
      return () => {}
    }
    this.isUsed = true
    const id = ++this.lastId
    this.asked.set(id, answer)
    this.post({ say: "do", id, operation }, operation.op === "attach" ? [operation.port] : [])
    return () => this.post({ say: "interrupt", id })
  }

  /** Waits until the thread has nothing to do. */
  async rest(): Promise<AtRest> {
    await this.ready
    const report = await new Promise<AtRest>((resolve) => {
      const id = ++this.lastId
      this.resting.set(id, resolve)
      this.post({ say: "rest", id })
    })
    for (const [key, info] of report.infos) this.infos.set(key, decodeInfo(info))
    return report
  }

  /** Nothing of a program is left here. */
  forget(): void {
    this.isUsed = false
    this.infos.clear()
    this.post({ say: "forget", id: 0 })
  }

  /** All that was asked of it has ended when this returns. */
  kill(): Promise<unknown> {
    this.isDead = true
    const ended = this.worker.terminate()
    this.end(undefined)
    return ended
  }
}

/** A few threads that live on from program to program, and one in reserve for each: to start one takes its time. */
export class ThreadPool {
  readonly rest = new Rest()
  private readonly kinds: ReadonlyArray<object | undefined>
  private readonly threads: Array<Thread> = []
  private readonly reserve: Array<Thread> = []

  /** Threads with such pollers. */
  constructor(kinds: ReadonlyArray<object | undefined>) {
    this.kinds = kinds
    for (const place of kinds.keys()) {
      this.threads.push(this.start(place))
      this.reserve.push(this.start(place))
    }
  }

  private start(place: number): Thread {
    return new Thread(this.kinds[place], () => this.rest.touch())
  }

  get size(): number {
    return this.kinds.length
  }

  /** The one at this place, from 1 on. */
  at(place: number): Thread {
    return this.threads[place - 1]
  }

  get used(): ReadonlyArray<Thread> {
    return this.threads.filter(({ isUsed }) => isUsed)
  }

  replace(place: number): void {
    void this.at(place).kill()
    this.threads[place - 1] = this.reserve[place - 1]
    this.reserve[place - 1] = this.start(place - 1)
  }

  async stop(): Promise<void> {
    for (const thread of [...this.threads, ...this.reserve]) await thread.kill()
  }
}

// ---------------------------------------------------------------------------
// faces
// ---------------------------------------------------------------------------

/** What interrupts a fiber that waits for another thread: its answer may be on its way, and then it has come. */
const interruptions = new WeakMap<Fiber.Fiber<unknown, unknown>, () => void>()

let lastKey = 0

const call = <A>(thread: Thread, operation: Operation): Effect.Effect<A, SessionError | Cause.Done> =>
  Effect.uninterruptible(
    Effect.callback<A, SessionError | Cause.Done>((resume) => {
      const fiber = Fiber.getCurrent()!
      const interrupt = thread.ask(operation, (ended) => {
        interruptions.delete(fiber)
        resume(decodeExit(ended) as Exit.Exit<A, SessionError | Cause.Done>)
      })
      interruptions.set(fiber, interrupt)
    })
  )

/** The same where nothing ends but connections. */
const ask = <A>(thread: Thread, operation: Operation) => call<A>(thread, operation) as Effect.Effect<A, SessionError>

/** What has a scope in the other thread leaves it with the scope here. */
const holding = <A, B>(
  thread: Thread,
  operation: Extract<Operation, { readonly key: number }>,
  make: (value: A) => B
): Effect.Effect<B, SessionError, Scope.Scope> =>
  Effect.uninterruptible(
    Effect.flatMap(ask<A>(thread, operation), (value) =>
      Effect.as(
        Effect.addFinalizer((exit) => leave(thread, operation.key, Exit.isSuccess(exit))),
        make(value)
      )
    )
  )

const leave = (thread: Thread, key: number, isSuccess: boolean): Effect.Effect<void> =>
  Effect.suspend(() =>
    thread.isDead ? Effect.void : Effect.orDie(Effect.asVoid(ask(thread, { op: "leave", key, isSuccess })))
  )

const connectionOf = (thread: Thread, connection: number, info: EncodedInfo): Connection => {
  thread.infos.set(connection, decodeInfo(info))
  const simple = (op: "end" | "close" | "reset") =>
    Effect.orDie(Effect.asVoid(ask(thread, { op, connection }))) as Effect.Effect<void>
  const face: Omit<Connection, "~@cut-through/core/Connection"> = {
    read: call(thread, { op: "read", connection, length: undefined }),
    readInto: (buffer) =>
      Effect.map(call<Uint8Array>(thread, { op: "read", connection, length: buffer.length }), (bytes) => {
        buffer.set(bytes)
        return bytes.length
      }),
    write: (bytes) => ask(thread, { op: "write", connection, bytes }),
    writeAll: (chunks) => ask(thread, { op: "write all", connection, chunks }),
    end: simple("end"),
    close: simple("close"),
    reset: simple("reset"),
    ref: Effect.void,
    unref: Effect.void,
    stream: Stream.empty,
    get sink(): Connection["sink"] {
      return assert.fail("programs use no sinks")
    },
    get info() {
      return thread.infos.get(connection)!
    }
  }
  return face as Connection
}

const connecting = (
  thread: Thread,
  operation: Extract<Operation, { readonly key: number }>
): Effect.Effect<Connection, SessionError, Scope.Scope> =>
  holding(thread, operation, (info: EncodedInfo) => connectionOf(thread, operation.key, info))

const requestOf = (thread: Thread, request: number, ends: { local: string; remote: string }): ConnectionRequest => ({
  local: Endpoint.parse(ends.local),
  remote: Endpoint.parse(ends.remote),
  accept: Effect.suspend(() => connecting(thread, { op: "say yes", key: ++lastKey, request })),
  refuse: Effect.orDie(Effect.asVoid(ask(thread, { op: "say no", request })))
})

const listenerOf = (thread: Thread, listener: number, its: { address: string; handle: number }): Listener => {
  const face: Omit<Listener, "~@cut-through/core/Listener"> = {
    address: Endpoint.parse(its.address),
    handle: its.handle,
    accept: Effect.suspend(() => connecting(thread, { op: "accept", key: ++lastKey, listener })),
    request: Effect.suspend(() => {
      const key = ++lastKey
      return holding(thread, { op: "request", key, listener }, (ends: { local: string; remote: string }) =>
        requestOf(thread, key, ends)
      )
    }),
    run: () => assert.fail("programs accept by themselves"),
    ref: Effect.void,
    unref: Effect.void
  }
  return face as Listener
}

const workerOf = (
  thread: Thread,
  app: number,
  name: string,
  worker: number | undefined
): Application.ApplicationWorker => ({
  name,
  listen: (endpoint, options = {}) =>
    Effect.suspend(() => {
      const key = ++lastKey
      return holding(
        thread,
        { op: "listen", key, app, worker, endpoint: Protocol.encodeEndpoint(endpoint), options },
        (its: { address: string; handle: number }) => listenerOf(thread, key, its)
      )
    }),
  connect: (endpoint) =>
    Effect.suspend(() =>
      connecting(thread, { op: "connect", key: ++lastKey, app, worker, endpoint: Protocol.encodeEndpoint(endpoint) })
    )
})

const eventsOf = (thread: Thread, app: number): Stream.Stream<AppEvent> =>
  Stream.unwrap(
    Effect.suspend(() => {
      const key = ++lastKey
      return Effect.orDie(
        holding(thread, { op: "subscribe", key, app }, () => {
          const pull = Effect.map(
            call<ReadonlyArray<Protocol.EncodedEvent>>(thread, { op: "pull", subscription: key }),
            (events) => events.map(Protocol.decodeEvent)
          )
          return Stream.fromPull(Effect.succeed(pull as unknown as Pull.Pull<readonly [AppEvent, ...Array<AppEvent>]>))
        })
      )
    })
  )

/** Attaches an application in another thread. What the program has of it here is a face that asks there. */
const attachIn = (
  thread: Thread,
  host: Threads.Host,
  options: AttachOptions
): Effect.Effect<Application.Application["Service"], SessionError, Scope.Scope> =>
  Effect.suspend(() => {
    const app = ++lastKey
    const { port1, port2 } = new MessageChannel()
    host.accept(port1)
    thread.attached.add(app)
    return holding(
      thread,
      { op: "attach", key: app, port: port2, options },
      ({ name, workers }: { readonly name: string; readonly workers: ReadonlyArray<string> }) =>
        Application.Application.of({
          ...workerOf(thread, app, name, undefined),
          workers: workers.map((name, worker) => workerOf(thread, app, name, worker)),
          events: eventsOf(thread, app)
        })
    ).pipe(
      // Before the application leaves, this has been added behind it: so it runs first, and nobody is missed too early.
      Effect.tap(() => Effect.addFinalizer(() => Effect.sync(() => thread.attached.delete(app)))),
      Effect.onError(() => Effect.sync(() => thread.attached.delete(app)))
    )
  })

// ---------------------------------------------------------------------------
// host
// ---------------------------------------------------------------------------

/** A session layer in this thread, whose applications live in this thread and in those of the pool. */
export const makeThreadHost = (options: HostOptions, pool: ThreadPool): Effect.Effect<Host> =>
  Effect.gen(function* () {
    const { rest } = pool
    const memory = new Memory()
    const scope = Scope.makeUnsafe()
    const guests = Scope.makeUnsafe()
    const clockScope = Scope.makeUnsafe()
    let killed = 0

    const run = <A, E>(effect: Effect.Effect<A, E>): Fiber.Fiber<A, E> => {
      rest.touch()
      return Effect.runFork(effect, { scheduler: rest.scheduler })
    }
    const runToEnd = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A> =>
      Effect.orDie(Effect.flatMap(Fiber.await(run(effect)), (exit) => exit))

    const clock = yield* runToEnd(Scope.provide(TestClock.make(), clockScope))
    const services = yield* runToEnd(
      Effect.provideService(
        Layer.buildWithScope(layerServices(options, memory, clock), scope),
        CopyBytes,
        NativeCopy.copy
      )
    )
    const layer = Context.get(services, SessionLayer)
    yield* runToEnd(Scope.provide(addNamespaces(layer), scope))
    const host = yield* runToEnd(Scope.provide(Effect.provideService(Threads.make(layer), Poller, rest.poller), guests))

    const expectedGuests = (): number => pool.used.reduce((sum, { attached }) => sum + attached.size, 0)

    /** Whether each thread has done as much as it had when it last was at rest. */
    const settle = async (): Promise<void> => {
      let before: string | undefined
      let quiet = 0
      for (let rounds = 0; ; rounds++) {
        if (rounds === 10_000) assert.fail("it never comes to rest")
        const threads = pool.used
        const [here, ...there] = await Promise.all([rest.come(), ...threads.map((thread) => thread.rest())])
        for (const { failure } of threads) if (failure !== undefined) assert.fail(`a thread has failed: ${failure}`)
        const now = JSON.stringify([here, ...there.map(({ activity }) => activity), host.stats().guests])
        // Who has closed its port is about to be missed.
        quiet = now === before ? quiet + 1 : 0
        // More than one round of it: where cores are short, a message may be on its way for longer than that.
        if (quiet >= 3 && host.stats().guests === expectedGuests()) {
          assert.deepStrictEqual(
            there.map(({ left }) => left),
            there.map(() => 0),
            "what applications that have left still hold"
          )
          return
        }
        before = now
      }
    }

    const forget = () => {
      for (const thread of pool.used) thread.forget()
    }

    return {
      layer,
      memory,
      places: 1 + pool.size,
      attach: (options, place) =>
        place === 0
          ? Effect.provideService(Application.make(options), SessionLayer, layer)
          : attachIn(pool.at(place), host, options),
      run,
      interrupt(fiber) {
        rest.touch()
        const interrupt = interruptions.get(fiber)
        if (interrupt === undefined) fiber.interruptUnsafe()
        else interrupt()
      },
      kill(place) {
        killed += pool.at(place).attached.size
        pool.replace(place)
      },
      isPrompt: false,
      isConcurrent: true,
      nudge: (count) =>
        Effect.promise(async () => {
          for (let turns = 0; turns < count; turns++) await new Promise((resolve) => setImmediate(resolve))
        }),
      settle: Effect.promise(settle),
      advance: (millis) => runToEnd(clock.adjust(millis)),
      close: Effect.gen(function* () {
        const { guests: attached, lost, mappings, pairs, rejected } = host.stats()
        assert.deepStrictEqual(
          { attached, lost, mappings, pairs, rejected },
          { attached: 0, lost: killed, mappings: 0, pairs: 0, rejected: 0 }
        )
        yield* runToEnd(Scope.close(guests, Exit.void))
        yield* runToEnd(Scope.close(scope, Exit.void))
        yield* runToEnd(Scope.close(clockScope, Exit.void))
        forget()
      }),
      abandon: Effect.suspend(() => {
        // Whatever state they are in, the next program begins with others.
        for (let place = 1; place <= pool.size; place++) if (pool.at(place).isUsed) pool.replace(place)
        run(Scope.close(guests, Exit.void))
        return runToEnd(Scope.close(clockScope, Exit.void))
      })
    }
  })
