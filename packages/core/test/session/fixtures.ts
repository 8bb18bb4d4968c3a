/** What the tests of the session floor share: applications, sessions over real leases, and session layers over services of the test's own. */
import * as Endpoint from "@cut-through/core/Endpoint"
import { LocalDoorbell } from "@cut-through/core/memory/Doorbell"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import * as SegmentManager from "@cut-through/core/segment/SegmentManager"
import { App, type AppScope, type Quotas } from "@cut-through/core/session/App"
import { AppListener, type Approval } from "@cut-through/core/session/AppListener"
import * as Connections from "@cut-through/core/session/Connections"
import { Dial, HalfOpen, type Request } from "@cut-through/core/session/HalfOpen"
import * as Namespace from "@cut-through/core/session/Namespace"
import { Session } from "@cut-through/core/session/Session"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import type { Transport } from "@cut-through/core/session/Transport"
import * as SessionError from "@cut-through/core/SessionError"
import * as CutThroughTransport from "@cut-through/core/transport/CutThroughTransport"
import { Leaks, LockTrace } from "@cut-through/testing"
import { assert } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { endpoint } from "../fixtures.ts"

export const PAGE = 4096

const noLimits: Quotas = {
  maxFifoMemory: Infinity,
  maxSessions: Infinity,
  maxHalfOpens: Infinity,
  maxPending: Infinity
}

/** An application that is attached nowhere. */
export const makeApp = (
  options: {
    readonly name?: string
    readonly scope?: AppScope
    readonly namespace?: Namespace.Namespace
    readonly quotas?: Partial<Quotas>
    readonly workers?: number
    readonly notifying?: (what: string) => void
  } = {}
): App =>
  new App({
    name: options.name ?? "app",
    namespace: options.namespace ?? Namespace.make(Namespace.DEFAULT, undefined),
    scope: options.scope ?? "both",
    properties: { segmentSize: 8 * PAGE, rxFifoSize: PAGE, txFifoSize: PAGE },
    quotas: { ...noLimits, ...options.quotas },
    workers: options.workers ?? 1,
    notifying: options.notifying ?? (() => {})
  })

/** A listener that is in no table. */
export const makeListener = (
  at: Endpoint.Endpoint,
  options: { readonly app?: App; readonly approval?: Approval; readonly isProxy?: boolean } = {}
): AppListener =>
  new AppListener(options.app ?? makeApp(), at, {
    approval: options.approval ?? "listener",
    isProxy: options.isProxy ?? false
  })

export const makeManager = (app: App): SegmentManager.SegmentManager =>
  Effect.runSync(SegmentManager.make(app.name, app.properties))

/** A connect from port 50000 that nobody has answered. */
export const makeHalfOpen = (
  client: App,
  options: { readonly transport?: Transport; readonly answer?: Request["answer"] } = {}
): HalfOpen =>
  new HalfOpen(client.workers[0], options.transport ?? new ListeningTransport("none"), new Dial(endpoint, 50_000), 7, {
    answer: options.answer ?? (() => undefined)
  })

/**
 * Makes sessions of an application with itself, all over the same pair of leases: nothing happens to them but what the
 * test does. Leases and application go with the scope.
 */
export const sessionMaker = Effect.gen(function* () {
  const layer = yield* SessionLayer.SessionLayer
  const app = yield* Effect.acquireRelease(
    layer.attach({ name: "app", rxFifoSize: PAGE, txFifoSize: 2 * PAGE, segmentSize: "1 MiB" }),
    (app) => Effect.sync(() => layer.detach(app))
  )
  const [client] = app.workers
  const leases = yield* Effect.acquireRelease(
    layer.segments.acquire({ manager: makeManager(app), client, server: client }),
    (leases) =>
      Effect.sync(() => {
        layer.segments.release(leases.client)
        layer.segments.release(leases.server)
      })
  )
  const transport = CutThroughTransport.of(layer)
  const doorbells = { client: new LocalDoorbell(), server: new LocalDoorbell() }
  const make = (side: SegmentContext.Side = "server", worker = 1): Session => {
    const halfOpen = makeHalfOpen(app, { transport })
    halfOpen.worker = worker
    const peer = side === "client" ? "server" : "client"
    return new Session(
      side,
      transport,
      halfOpen,
      client,
      leases,
      doorbells[side],
      doorbells[peer],
      undefined,
      layer.changes
    )
  }
  return { app, doorbells, layer, leases, make, transport }
})

/** A session layer over the real services but for those given, checked for leaks, and for what went wrong with its locks. */
export const layerWith = (
  services: {
    readonly connections?: Layer.Layer<Connections.Connections>
    readonly segments?: Layer.Layer<SegmentContext.SegmentContext, never, SharedMemory.SharedMemory | Lock.Lock>
    readonly lock?: Layer.Layer<Lock.Lock>
    readonly memory?: Layer.Layer<SharedMemory.SharedMemory>
    readonly wake?: Layer.Layer<Wake.Wake>
    readonly workers?: number
  } = {}
) =>
  Leaks.layerCheck.pipe(
    Layer.provideMerge(SessionLayer.layerNoDeps({ workers: services.workers })),
    Layer.provide([
      services.connections ?? Connections.layer,
      services.segments ?? SegmentContext.layer,
      services.wake ?? Wake.layer
    ]),
    Layer.provide([services.memory ?? SharedMemory.layer, services.lock ?? LockTrace.layer]),
    Layer.fresh
  )

/**
 * A transport that only listens, and takes as long for it as the test wants: the one real transport there is has
 * nothing to start or to stop, so with it alone nothing could come in between or go wrong.
 */
export class ListeningTransport implements Transport {
  readonly name: string
  readonly shortName: string
  /** Where it listens now. */
  readonly listening = new Set<AppListener>()
  /** What was asked of it, and what it has done. */
  readonly log: Array<string> = []
  /** Whether starting and stopping wait for `proceed`. */
  isSlow = false
  /** Why it cannot listen, if it cannot. */
  error: SessionError.SessionError | undefined = undefined
  private readonly waiting: Array<Deferred.Deferred<void>> = []

  constructor(name: string) {
    this.name = name
    this.shortName = name.toUpperCase()
  }

  private step(what: string, listener: AppListener): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.log.push(`${what} ${Endpoint.format(listener.endpoint)}`)
      if (!this.isSlow) return Effect.void
      const gate = Deferred.makeUnsafe<void>()
      this.waiting.push(gate)
      return Deferred.await(gate)
    })
  }

  /** Lets the oldest start or stop come to its end. */
  proceed(): void {
    const gate = this.waiting.shift()
    assert.isDefined(gate, "nothing is under way")
    Deferred.doneUnsafe(gate, Effect.void)
  }

  startListen(listener: AppListener): Effect.Effect<void, SessionError.SessionError> {
    return Effect.andThen(
      this.step("start", listener),
      Effect.suspend(() => {
        if (this.error !== undefined) return Effect.fail(this.error)
        for (const other of this.listening) {
          assert.isFalse(
            Endpoint.format(other.endpoint) === Endpoint.format(listener.endpoint),
            "listens there already"
          )
        }
        this.listening.add(listener)
        return Effect.void
      })
    )
  }

  stopListen(listener: AppListener): Effect.Effect<void> {
    return Effect.andThen(
      this.step("stop", listener),
      Effect.sync(() => assert.isTrue(this.listening.delete(listener), "does not listen there"))
    )
  }

  reaches(): boolean {
    return false
  }

  connect(_: unknown, remote: Endpoint.Endpoint): SessionError.Reason {
    return new SessionError.LocalConnect({ endpoint: Endpoint.format(remote) })
  }

  cancel(): boolean {
    return false
  }

  readonly accept = never
  readonly close = never
  readonly reset = never
  readonly abandon = never
  readonly halfClose = never
  readonly customTx = never
  readonly appRxEvt = never
  readonly formatSession = never
  readonly formatHalfOpen = never

  getSession(): undefined {
    return undefined
  }

  getHalfOpen(): undefined {
    return undefined
  }

  getListener(handle: number): AppListener | undefined {
    for (const listener of this.listening) if (listener.handle === handle) return listener
    return undefined
  }

  formatListener(listener: AppListener): string {
    return `[${this.shortName}] ${Endpoint.format(listener.endpoint)}`
  }
}

const never = (): never => assert.fail("it has no sessions")
