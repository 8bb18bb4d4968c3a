/** A thread and a process live exactly as long as they would with `node:net`. */
import * as Application from "@cut-through/core/Application"
import { SessionLayer } from "@cut-through/core/session/SessionLayer"
import * as CutThroughHost from "@cut-through/platform/CutThroughHost"
import { assert, describe, layer } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { fork } from "node:child_process"
import * as net from "node:net"
import { fileURLToPath } from "node:url"
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads"
import type { Answer, Question, Start } from "./life-alive.ts"
import { atRest, layerHost } from "./life-fixtures.ts"
import { peer } from "./life-parts.ts"
import { talkOver } from "./life-talk.ts"

/** A process or a thread that does one thing. */
interface Subject {
  readonly ask: (question: Question) => void
  readonly onAnswer: (listener: (answer: Answer) => void) => void
  /** How it has ended: 0, or what is wrong. */
  readonly ended: Promise<unknown>
  readonly kill: () => Promise<unknown>
}

type Flavor = "cut-through" | "node:net"

const started = (start: () => Subject) =>
  Effect.acquireRelease(Effect.sync(start), (subject) => Effect.promise(subject.kill))

const fileOf = (flavor: Flavor) =>
  new URL(flavor === "cut-through" ? "./life-alive-ct.ts" : "./life-alive-net.ts", import.meta.url)

const startProcess = (file: URL, start: Start): Subject => {
  const child = fork(fileURLToPath(file), [JSON.stringify(start)], { stdio: ["ignore", "pipe", "pipe", "ipc"] })
  let text = ""
  for (const output of [child.stdout!, child.stderr!]) output.on("data", (chunk) => (text += chunk))
  const ended = new Promise((resolve) => child.once("close", (code) => resolve(code === 0 && text === "" ? 0 : text)))
  return {
    ask: (question) => void (child.connected && child.send(question, () => {})),
    onAnswer: (listener) => void child.on("message", listener),
    ended,
    kill: () => (child.kill("SIGKILL"), ended)
  }
}

const startThread = (file: URL, workerData: unknown, transferList: Array<MessagePort> = []): Subject => {
  const worker = new Worker(file, { workerData, transferList })
  const ended = new Promise((resolve) => {
    worker.once("error", resolve)
    worker.once("exit", resolve)
  })
  return {
    ask: (question) => worker.postMessage(question),
    onAnswer: (listener) => void worker.on("message", listener),
    ended,
    kill: () => worker.terminate()
  }
}

/** What connects to it and what it connects to, in this thread. */
interface Peer {
  readonly port: number
  readonly call: (port: number) => void
}

const makePeer: Effect.Effect<Peer, never, Application.Application | Scope.Scope> = Effect.gen(function* () {
  const { port1, port2 } = new MessageChannel()
  const talk = talkOver(port1)
  yield* Effect.addFinalizer(() => Effect.sync(() => port1.close()))
  yield* Effect.forkScoped(peer(talkOver(port2)))
  return { port: yield* talk.hear, call: (port) => port1.postMessage(port) }
})

const makeNetPeer: Effect.Effect<Peer, never, Scope.Scope> = Effect.acquireRelease(
  Effect.callback<Peer & { readonly close: () => void }>((resume) => {
    const sockets: Array<net.Socket> = []
    const add = (socket: net.Socket) => {
      sockets.push(socket)
      socket.on("error", () => {})
    }
    const server = net.createServer({ allowHalfOpen: true }, (socket) => {
      add(socket)
      socket.once("data", () => socket.pause().end())
    })
    server.listen(0, "127.0.0.1", () =>
      resume(
        Effect.succeed({
          port: (server.address() as net.AddressInfo).port,
          call: (port) => add(net.connect({ port, host: "127.0.0.1", allowHalfOpen: true })),
          close: () => {
            server.close()
            for (const socket of sockets) socket.destroy()
          }
        })
      )
    )
  }),
  ({ close }) => Effect.sync(close)
)

class Peers extends Context.Service<Peers, { readonly [F in Flavor]: Peer }>()("Peers") {}

/** Nothing is left of all that were started, when the application of this thread has gone as well. */
const layerAtRest = Layer.effectDiscard(
  Effect.flatMap(Effect.context<SessionLayer | CutThroughHost.CutThroughHost>(), (context) =>
    Effect.addFinalizer(() => Effect.orDie(Effect.provideContext(atRest(), context)))
  )
)

const layerPeers = Layer.effect(Peers, Effect.all({ "cut-through": makePeer, "node:net": makeNetPeer })).pipe(
  Layer.provide(Application.layer({ name: "peer" })),
  Layer.provideMerge(layerAtRest),
  Layer.provideMerge(layerHost)
)

/** As many answers of somebody who is at rest are not the last breath. */
const ENOUGH = 10

/** Asks until it is clear that it lives on, or until it has ended. */
const livesOn = (subject: Subject): Effect.Effect<boolean> =>
  Effect.callback((resume) => {
    let left = ENOUGH
    subject.onAnswer((answer) => {
      if (typeof answer !== "object" || answer._tag !== "Alive") return
      if (answer.isAtRest && --left === 0) resume(Effect.succeed(true))
      else subject.ask("ping")
    })
    void subject.ended.then(() => resume(Effect.succeed(false)))
    subject.ask("ping")
  })

/** Once it has done what it does; or has ended before. */
const whenReady = (subject: Subject, onCall: (port: number) => void = () => {}): Effect.Effect<void> =>
  Effect.callback((resume) => {
    subject.onAnswer((answer) => {
      if (answer === "ready") resume(Effect.void)
      else if (answer._tag === "Call") onCall(answer.port)
    })
    void subject.ended.then(() => resume(Effect.void))
  })

const endOf = (subject: Subject): Effect.Effect<unknown> => Effect.promise(() => subject.ended)

/** Whether who does it goes on living. */
const both: { readonly [name: string]: boolean } = {
  nothing: false,
  "a listener": true,
  "a listener without a reference": false,
  "a listener that has its reference again": true,
  "a closed listener": false,
  "waiting for a connection, without a reference": false,
  "a client": true,
  "a client without a reference": false,
  "a client that has its reference again": true,
  "a closed client": false,
  "reading, without a reference": false,
  "writing to a peer that does not read": true,
  "a server": true,
  "a server without a reference": false,
  "two clients, one without a reference": true
}

const expected: { readonly [F in Flavor]: { readonly [name: string]: boolean } } = {
  "cut-through": {
    ...both,
    events: false,
    "writing to a peer that does not read, without a reference": false,
    "a connect without an answer": true,
    "a client whose peer has ended its stream": true
  },
  "node:net": {
    ...both,
    // The one difference: a socket that has nothing more to read lets go, unless something is being written to it.
    "a client whose peer has ended its stream": false
  }
}

/** What host and guest say, as far as it matters here. */
interface Said {
  readonly _tag: string
  readonly id?: number
  readonly session?: number
}

/** A port to the host, on which the answers to one kind of request wait until they are let go. */
const holdBack = (accept: (port: MessagePort) => void, what: string, tag: string) =>
  Effect.gen(function* () {
    const toHost = new MessageChannel()
    const toGuest = new MessageChannel()
    const isHolding = yield* Deferred.make<void>()
    const asked = new Set<unknown>()
    let held: Array<() => void> | undefined = []
    const numberOf = (message: Said) => (what === "Close" ? message.session : message.id)
    toGuest.port1.on("message", (request: Said) => {
      if (request._tag === what) asked.add(numberOf(request))
      // All through the port: what goes through a ring nobody holds back.
      toHost.port1.postMessage(request._tag === "Attach" ? { ...request, ring: false } : request)
    })
    toHost.port1.on("message", (message: Said) => {
      const isAnswer = message._tag === tag && asked.has(numberOf(message))
      if (!isAnswer || held === undefined) return toGuest.port1.postMessage(message)
      held.push(() => toGuest.port1.postMessage(message))
      Deferred.doneUnsafe(isHolding, Exit.void)
    })
    toHost.port1.on("close", () => {
      if (held === undefined || held.length === 0) toGuest.port1.close()
      else held.push(() => toGuest.port1.close())
    })
    toGuest.port1.on("close", () => toHost.port1.close())
    accept(toHost.port2)
    return {
      port: toGuest.port2,
      isHolding: Deferred.await(isHolding),
      letGo: Effect.sync(() => {
        for (const send of held!) send()
        held = undefined
      })
    }
  })

/** What a thread waits for, and the answer to it. */
const answers = {
  Attach: "Attached",
  Listen: "Listening",
  Connect: "Connected",
  Approve: "Done",
  Unlisten: "Done",
  Close: "Closed",
  Detach: "Done"
}

layer(layerPeers, { excludeTestServices: true })("what keeps it alive", (it) => {
  for (const [kind, begin] of [
    ["process", startProcess],
    ["thread", startThread]
  ] as const) {
    for (const flavor of ["cut-through", "node:net"] as const) {
      describe.concurrent(`a ${kind}, with ${flavor}`, () => {
        for (const [name, lives] of Object.entries(expected[flavor])) {
          it.effect(`${name}: it ${lives ? "lives" : "ends"}`, () =>
            Effect.gen(function* () {
              const peer = (yield* Peers)[flavor]
              const subject = yield* started(() => begin(fileOf(flavor), { name, port: peer.port }))
              yield* whenReady(subject, peer.call)
              assert.strictEqual(yield* livesOn(subject), lives)
              if (lives) subject.ask("finish")
              assert.strictEqual(yield* endOf(subject), 0)
            })
          )
        }
      })
    }
  }

  describe.concurrent("a thread that waits for its host", () => {
    for (const [what, tag] of Object.entries(answers)) {
      it.effect(`${what}: it lives until the answer has come`, () =>
        Effect.gen(function* () {
          const { accept } = yield* CutThroughHost.CutThroughHost
          const held = yield* holdBack(accept, what, tag)
          const file = new URL("./life-alive-steps.ts", import.meta.url)
          const subject = yield* started(() => startThread(file, { control: held.port }, [held.port]))
          yield* held.isHolding
          assert.isTrue(yield* livesOn(subject))
          yield* held.letGo
          yield* whenReady(subject)
          assert.strictEqual(yield* endOf(subject), 0)
        })
      )
    }
  })
})
