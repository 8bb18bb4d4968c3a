/** One application's part in scripts, for whoever is at the other end of a port: in this thread or in another one. */
import { Application, type Connection, Endpoint, type Listener, type SessionError } from "@cut-through/core"
import type { Parity } from "@cut-through/testing"
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import type { MessagePort, Worker } from "node:worker_threads"

/** What a part is asked to do. Connections are numbers that whoever asks thinks up. */
type Request =
  | { readonly do: "listen" }
  | { readonly do: "connect"; readonly on: number; readonly endpoint: string }
  | { readonly do: "accept"; readonly on: number }
  | { readonly do: "read" | "end" | "reset"; readonly on: number }
  | { readonly do: "write"; readonly on: number; readonly bytes: Uint8Array }
  | { readonly do: "close" }

type Question = Request & { readonly id: number }

interface Answer {
  readonly id: number
  readonly value?: unknown
  readonly error?: string
}

const tagOf = (error: SessionError.SessionError | Cause.Done): string =>
  error._tag === "Done" ? "End" : error.reason._tag

/** Does what it is asked to until the port is closed. */
export const perform = (port: MessagePort, application: Application.Application["Service"]): void => {
  let scope = Scope.makeUnsafe()
  let listener: Listener.Listener | undefined
  const connections = new Map<number, Connection.Connection>()

  const answer = (question: Question): Effect.Effect<unknown, SessionError.SessionError | Cause.Done, Scope.Scope> => {
    switch (question.do) {
      case "listen":
        return Effect.map(application.listen(Endpoint.tcp("127.0.0.1", 0)), (made) => {
          listener = made
          return `tcp://${Endpoint.format(made.address)}`
        })
      case "connect":
        return Effect.map(application.connect(Endpoint.parse(question.endpoint)), (connection) => {
          connections.set(question.on, connection)
        })
      case "accept":
        return Effect.map(listener!.accept, (connection) => {
          connections.set(question.on, connection)
        })
      case "close": {
        const over = scope
        scope = Scope.makeUnsafe()
        connections.clear()
        return Scope.close(over, Exit.void)
      }
    }
    const connection = connections.get(question.on)!
    if (question.do === "write") return connection.write(question.bytes)
    return connection[question.do]
  }

  port.on("message", (question: Question) => {
    const { id } = question
    Effect.runFork(
      Effect.map(
        Effect.result(
          Scope.provide(
            Effect.suspend(() => answer(question)),
            scope
          )
        ),
        (result) => {
          const said: Answer = Result.isSuccess(result)
            ? { id, value: result.success }
            : { id, error: tagOf(result.failure) }
          port.postMessage(said)
        }
      )
    )
  })
}

/** A part, from the other end of its port. */
export class Part {
  private readonly port: MessagePort | Worker
  private readonly waiting = new Map<number, (answer: Answer) => void>()
  private asked = 0

  constructor(port: MessagePort | Worker) {
    this.port = port
    port.on("message", (answer: Answer) => {
      this.waiting.get(answer.id)?.(answer)
      this.waiting.delete(answer.id)
    })
  }

  ask<A = void>(request: Request): Effect.Effect<A, string> {
    return Effect.callback((resume) => {
      const id = ++this.asked
      this.waiting.set(id, ({ error, value }) =>
        resume(error === undefined ? Effect.succeed(value as A) : Effect.fail(error))
      )
      this.port.postMessage({ ...request, id })
    })
  }

  end(on: number): Parity.End {
    return {
      read: this.ask<Uint8Array>({ do: "read", on }),
      write: (bytes) => this.ask({ do: "write", on, bytes }),
      end: Effect.ignore(this.ask({ do: "end", on })),
      reset: Effect.ignore(this.ask({ do: "reset", on }))
    }
  }
}

/** Turns of the event loop, of which those of other threads are some more. */
const turn = Effect.callback<void>((resume) => void setImmediate(() => resume(Effect.void)))

/** Connections from one part to another. */
export const between = (name: string, client: Part, server: Part): Parity.Carrier => ({
  name,
  run: (program) =>
    Effect.gen(function* () {
      const endpoint = yield* server.ask<string>({ do: "listen" })
      const nobody = endpoint.replace(/\d+$/, "1")
      let made = 0
      return yield* program({
        connect: (to) =>
          Effect.gen(function* () {
            const on = ++made
            yield* client.ask({ do: "connect", on, endpoint: to === "server" ? endpoint : nobody })
            yield* server.ask({ do: "accept", on })
            return { client: client.end(on), server: server.end(on) }
          }).pipe(Effect.mapError((tag) => (tag === "NoRoute" || tag === "Refused" ? "Nobody" : tag))),
        wait: (turns) => Effect.forEach(Array.from({ length: turns }), () => turn, { discard: true })
      })
    }).pipe(
      Effect.scoped,
      Effect.ensuring(Effect.ignore(Effect.all([client.ask({ do: "close" }), server.ask({ do: "close" })])))
    )
})
