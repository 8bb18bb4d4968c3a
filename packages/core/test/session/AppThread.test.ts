/** Applications in other threads, and what becomes of their connections when those die. The other thread is played by the test. */
import * as Application from "@cut-through/core/Application"
import type * as Connection from "@cut-through/core/Connection"
import * as Endpoint from "@cut-through/core/Endpoint"
import { LocalDoorbell } from "@cut-through/core/memory/Doorbell"
import type { Segment } from "@cut-through/core/segment/SegmentManager"
import * as Acceptor from "@cut-through/core/session/Acceptor"
import type { App } from "@cut-through/core/session/App"
import type { AppThread, Line } from "@cut-through/core/session/AppThread"
import * as Connector from "@cut-through/core/session/Connector"
import type { Session } from "@cut-through/core/session/Session"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import * as SessionError from "@cut-through/core/SessionError"
import * as Segments from "@cut-through/core/Segments"
import * as CutThroughTransport from "@cut-through/core/transport/CutThroughTransport"
import { Leaks } from "@cut-through/testing"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { endpoint, misplaced, pattern, readExactly, reasonOf } from "../fixtures.ts"

const PAGE = 4096

/** A thread without a thread: what it is sent is written down, and rings are calls. */
class FakeThread implements AppThread {
  readonly name = "fake"
  isGone = false
  readonly mapped: Array<Segment> = []
  readonly letGo: Array<() => void> = []
  readonly sessions = new Set<Session>()
  /** Why it cannot map anything, if it cannot. */
  refusal: Error | undefined = undefined

  segmentAdded(segment: Segment): void {
    if (this.refusal !== undefined) throw this.refusal
    this.mapped.push(segment)
  }

  segmentDeleted(segment: Segment, acknowledge: () => void): void {
    this.mapped.splice(this.mapped.indexOf(segment), 1)
    if (this.isGone) acknowledge()
    else this.letGo.push(acknowledge)
  }

  line(): Line {
    const server = new LocalDoorbell()
    const client = new LocalDoorbell()
    return {
      server,
      client,
      toServer: server,
      toClient: client,
      enter: (session) => void this.sessions.add(session),
      leave: (session) => assert.isTrue(this.sessions.delete(session), "it has left before")
    }
  }
}

const world = Effect.gen(function* () {
  const layer = yield* SessionLayer.SessionLayer
  CutThroughTransport.of(layer)
  const thread = new FakeThread()
  yield* Effect.addFinalizer(() => Effect.sync(() => thread.letGo.forEach((acknowledge) => acknowledge())))
  const options = { rxFifoSize: 2 * PAGE, txFifoSize: 2 * PAGE, segmentSize: 64 * PAGE }
  const guest = yield* layer.attach({ name: "guest", ...options }, thread)
  const host = yield* Application.make({ name: "host", ...options })
  /** The thread has died. */
  const die = Effect.suspend(() => {
    thread.isGone = true
    return Application.detach(layer, guest, true)
  })
  yield* Effect.addFinalizer(() => (guest.isDetached ? Effect.void : die))
  return { layer, thread, guest, host, die }
})

const bindIn = (layer: SessionLayer.SessionLayer["Service"], app: App, approval: "listener" | "application") =>
  layer.bind(app, endpoint, { backlog: 10, approval, isProxy: false, workers: app.workers })

/** A connection from the host's thread to the guest, and the guest's session. */
const served = Effect.gen(function* () {
  const all = yield* world
  const { queue } = yield* bindIn(all.layer, all.guest, "listener")
  const connection = yield* all.host.connect(endpoint)
  let session: Session | undefined
  Acceptor.take(all.layer, queue, true, (taken) => (session = taken))
  return { ...all, connection, session: session! }
})

/** A connection from the guest to the host's thread, and the guest's session. */
const dialled = Effect.gen(function* () {
  const all = yield* world
  const listener = yield* all.host.listen(endpoint)
  let session: Session | SessionError.SessionError | undefined
  Connector.connect(all.layer, all.guest.workers[0], endpoint, {
    answer: (result) => {
      session = result
      return undefined
    }
  })
  const connection: Connection.Connection = yield* listener.accept
  return { ...all, connection, session: session as Session }
})

const test = <A>(body: Effect.Effect<A, unknown, SessionLayer.SessionLayer | Scope.Scope>) =>
  body.pipe(Effect.scoped, Effect.provide(Leaks.layerSessions()))

/** What the other thread does to say something: publish, and ring. */
const writeAs = (session: Session, bytes: Uint8Array): void => {
  assert.strictEqual(session.tx.enqueueAll(bytes, 0, bytes.length), bytes.length)
  session.peerDoorbell.ring()
}

describe("an application in another thread", () => {
  for (const [name, connected] of [
    ["serves", served],
    ["dials", dialled]
  ] as const) {
    describe(`that ${name}`, () => {
      it.effect("gets the segment once, and talks", () =>
        test(
          Effect.gen(function* () {
            const { connection, session, thread } = yield* connected
            assert.deepStrictEqual(thread.mapped, [session.lease.segment])
            assert.strictEqual(connection.info.path, "thread")
            const reading = yield* Effect.forkChild(connection.read, { startImmediately: true })
            writeAs(session, pattern(100))
            assert.strictEqual(misplaced(yield* Fiber.join(reading)), -1)
          })
        )
      )

      it.effect("tells late of what was read already, and is heard the next time", () =>
        test(
          Effect.gen(function* () {
            const { connection, session } = yield* connected
            const reading = yield* Effect.forkChild(readExactly(connection, 20), { startImmediately: true })
            // It stands between publishing and telling when something else rings.
            session.tx.enqueueAll(pattern(10), 0, 10)
            session.peerDoorbell.ring()
            if (session.tx.setEvent()) session.peerDoorbell.ring()
            session.tx.enqueueAll(pattern(10, 10), 0, 10)
            if (session.tx.setEvent()) session.peerDoorbell.ring()
            const bytes = reading.pollUnsafe()
            assert.isDefined(bytes, "it was not told")
            assert.strictEqual(misplaced(yield* Fiber.join(reading)), -1)
          })
        )
      )

      it.effect("dies: what it had published is read, then comes PeerDied with the count", () =>
        test(
          Effect.gen(function* () {
            const { connection, die, session } = yield* connected
            writeAs(session, pattern(5000))
            assert.strictEqual((yield* connection.readInto(new Uint8Array(1000))) as number, 1000)
            yield* die
            const rest = yield* readExactly(connection, 4000)
            assert.strictEqual(misplaced(rest, 1000), -1)
            const error = yield* Effect.flip(connection.read)
            assert.strictEqual(error._tag, "SessionError")
            assert.deepInclude((error as SessionError.SessionError).reason, { _tag: "PeerDied", bytesReceived: 5000 })
            assert.strictEqual(reasonOf(yield* Effect.exit(connection.write(Uint8Array.of(1)))), "PeerDied")
          })
        )
      )

      it.effect("dies: whoever waits is told", () =>
        test(
          Effect.gen(function* () {
            const { connection, die } = yield* connected
            const reading = yield* Effect.forkChild(connection.read, { startImmediately: true })
            const writing = yield* Effect.forkChild(connection.write(pattern(100_000)), { startImmediately: true })
            yield* die
            assert.strictEqual(reasonOf(yield* Fiber.await(reading)), "PeerDied")
            assert.strictEqual(reasonOf(yield* Fiber.await(writing)), "PeerDied")
          })
        )
      )

      it.effect("dies: its segments are condemned, and go with the survivor", () =>
        test(
          Effect.gen(function* () {
            const { connection, die, layer, thread } = yield* connected
            yield* die
            const { segments } = yield* Segments.stats
            assert.lengthOf(segments, 1)
            assert.isTrue(segments[0].condemned)
            assert.isTrue(segments[0].clientDetached || segments[0].serverDetached)
            assert.strictEqual(thread.sessions.size, 1)
            yield* connection.close
            assert.strictEqual(layer.residue().segments, 0)
            assert.strictEqual(layer.residue().regions, 0)
            assert.strictEqual(thread.sessions.size, 0)
          })
        )
      )

      it.effect("lets go of a segment late: its memory is in use until then", () =>
        test(
          Effect.gen(function* () {
            const { connection, layer, session, thread } = yield* connected
            yield* connection.close
            session.close()
            assert.deepInclude(layer.residue(), { segments: 0, regions: 1 })
            assert.lengthOf(thread.letGo, 1)
            thread.letGo[0]()
            assert.deepInclude(layer.residue(), { segments: 0, regions: 0 })
          })
        )
      )
    })
  }

  it.effect("that dies leaves its endpoint free at once, and its unaccepted connections to a PeerDied", () =>
    test(
      Effect.gen(function* () {
        const { die, guest, host, layer } = yield* world
        yield* bindIn(layer, guest, "listener")
        const connection = yield* host.connect(endpoint)
        yield* die
        assert.strictEqual(reasonOf(yield* Effect.exit(connection.read)), "PeerDied")
        const listener = yield* host.listen(endpoint)
        assert.strictEqual(Endpoint.format(listener.address), Endpoint.format(endpoint))
      })
    )
  )

  it.effect("that dies without having said yes has refused", () =>
    test(
      Effect.gen(function* () {
        const { die, guest, host, layer } = yield* world
        yield* bindIn(layer, guest, "application")
        const connecting = yield* Effect.forkChild(host.connect(endpoint), { startImmediately: true })
        yield* die
        const error = yield* Effect.flip(Fiber.join(connecting))
        assert.deepInclude(error.reason, { _tag: "Refused", why: "its application has died" })
      })
    )
  )

  it.effect("that dies while it connects leaves nothing", () =>
    test(
      Effect.gen(function* () {
        const { die, guest, host, layer } = yield* world
        yield* host.listen(endpoint, { approval: "application" })
        let answer: Session | SessionError.SessionError | undefined
        Connector.connect(layer, guest.workers[0], endpoint, { answer: (result) => void (answer = result) })
        assert.strictEqual(layer.residue().halfOpens, 1)
        yield* die
        assert.strictEqual((answer as SessionError.SessionError).reason._tag, "Closed")
        assert.strictEqual(layer.residue().halfOpens, 0)
      })
    )
  )

  it.effect("that dies is not connected to by whoever is told of it", () =>
    test(
      Effect.gen(function* () {
        const { connection, die, host } = yield* served
        // It is woken while the dead one's listener is still there.
        const again = yield* Effect.forkChild(
          Effect.andThen(Effect.exit(connection.read), Effect.exit(host.connect(endpoint))),
          { startImmediately: true }
        )
        yield* die
        assert.include(["Refused", "NoRoute"], reasonOf(yield* Fiber.join(again)))
      })
    )
  )

  it.effect("that cannot map a segment gets no connection there, and the client an error", () =>
    test(
      Effect.gen(function* () {
        const { guest, host, layer, thread } = yield* world
        yield* bindIn(layer, guest, "listener")
        thread.refusal = new Error("no memory there")
        assert.strictEqual(reasonOf(yield* Effect.exit(host.connect(endpoint))), "AllocFailed")
        assert.strictEqual(layer.residue().segments, 0)
      })
    )
  )

  it.effect("says itself whether it has read everything", () =>
    test(
      Effect.gen(function* () {
        const { connection, session } = yield* served
        yield* connection.write(pattern(10))
        // The other thread has read them, over a mapping of its own: this one does not know.
        session.close()
        assert.strictEqual(reasonOf(yield* Effect.exit(connection.read)), "Done")
      })
    )
  )
})
