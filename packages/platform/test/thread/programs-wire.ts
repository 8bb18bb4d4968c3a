/**
 * What a program and the threads its applications live in say to each other, and how a thread knows that it has nothing
 * to do. Threads load it without Vitest, so nothing here imports that.
 */
import * as Endpoint from "@cut-through/core/Endpoint"
import type { Connection, Info } from "@cut-through/core/Connection"
import type { ListenOptions } from "@cut-through/core/Application"
import type { AttachOptions } from "@cut-through/core/session/SessionLayer"
import { SessionError } from "@cut-through/core/SessionError"
import * as Poller from "@cut-through/platform/thread/Poller"
import * as Protocol from "@cut-through/platform/thread/Protocol"
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import * as Scheduler from "effect/Scheduler"
import type { MessagePort } from "node:worker_threads"

// ---------------------------------------------------------------------------
// operations
// ---------------------------------------------------------------------------

/** What is to be done; `key` is what its result is called from then on, and the scope that holds it. */
export type Operation =
  | { readonly op: "attach"; readonly key: number; readonly port: MessagePort; readonly options: AttachOptions }
  | {
      readonly op: "listen"
      readonly key: number
      readonly app: number
      readonly worker: number | undefined
      readonly endpoint: string
      readonly options: ListenOptions
    }
  | {
      readonly op: "connect"
      readonly key: number
      readonly app: number
      readonly worker: number | undefined
      readonly endpoint: string
    }
  | { readonly op: "accept" | "request"; readonly key: number; readonly listener: number }
  | { readonly op: "say yes"; readonly key: number; readonly request: number }
  | { readonly op: "say no"; readonly request: number }
  | { readonly op: "read"; readonly connection: number; readonly length: number | undefined }
  | { readonly op: "write"; readonly connection: number; readonly bytes: Uint8Array }
  | { readonly op: "write all"; readonly connection: number; readonly chunks: ReadonlyArray<Uint8Array> }
  | { readonly op: "end" | "close" | "reset"; readonly connection: number }
  | { readonly op: "subscribe"; readonly key: number; readonly app: number }
  | { readonly op: "pull"; readonly subscription: number }
  | { readonly op: "leave"; readonly key: number; readonly isSuccess: boolean }

/** What a program says to a thread. */
export type Order =
  | { readonly say: "do"; readonly id: number; readonly operation: Operation }
  | { readonly say: "interrupt"; readonly id: number }
  /** When the thread has nothing to do, it says how much it has done so far. */
  | { readonly say: "rest"; readonly id: number }
  /** The program is over. */
  | { readonly say: "forget"; readonly id: number }

/** What a thread says to the program. */
export type Report =
  | { readonly say: "ready" }
  | { readonly say: "done"; readonly id: number; readonly exit: Ended }
  | {
      readonly say: "at rest"
      readonly id: number
      readonly activity: number
      readonly infos: Infos
      readonly left: number
    }

/** How an operation has ended. */
export type Ended =
  | { readonly how: "success"; readonly value: unknown }
  | { readonly how: "failure"; readonly error: unknown }
  | { readonly how: "end" | "interrupt" }
  | { readonly how: "defect"; readonly text: string }

/** Of each connection that is held there. */
export type Infos = ReadonlyArray<readonly [key: number, info: EncodedInfo]>

export type EncodedInfo = Omit<Info, "local" | "remote"> & { readonly local: string; readonly remote: string }

export const encodeInfo = ({ info }: Connection): EncodedInfo => ({
  ...info,
  local: Protocol.encodeEndpoint(info.local),
  remote: Protocol.encodeEndpoint(info.remote)
})

export const decodeInfo = (info: EncodedInfo): Info => ({
  ...info,
  local: Endpoint.parse(info.local),
  remote: Endpoint.parse(info.remote)
})

export const encodeExit = (exit: Exit.Exit<unknown, unknown>): Ended => {
  if (Exit.isSuccess(exit)) return { how: "success", value: exit.value }
  const reason = exit.cause.reasons[0]
  if (reason._tag === "Interrupt") return { how: "interrupt" }
  if (reason._tag === "Fail" && Cause.isDone(reason.error)) return { how: "end" }
  if (reason._tag === "Fail" && reason.error instanceof SessionError) {
    return { how: "failure", error: Protocol.encodeError(reason.error) }
  }
  return { how: "defect", text: Cause.pretty(exit.cause) }
}

export const decodeExit = (ended: Ended): Exit.Exit<unknown, SessionError | Cause.Done> => {
  switch (ended.how) {
    case "success":
      return Exit.succeed(ended.value)
    case "failure":
      return Exit.fail(Protocol.decodeError(ended.error))
    case "end":
      return Exit.fail(Cause.Done())
    case "interrupt":
      return Exit.interrupt()
    case "defect":
      return Exit.die(ended.text)
  }
}

// ---------------------------------------------------------------------------
// rest
// ---------------------------------------------------------------------------

/**
 * The poller and the scheduler of a thread, and whether anything is left for them to do.
 *
 * Whatever happens in a thread that can have consequences elsewhere counts as activity. When all threads have come to
 * rest twice, one round after the other, and none was active in between, then nothing was on its way between the two:
 * each looks at all that could have come before it says that it is at rest.
 */
export class Rest {
  readonly scheduler: Scheduler.Scheduler
  readonly poller: Poller.Poller
  private readonly inner: Poller.Poller
  private scheduled = 0
  private count = 0

  constructor(options?: Poller.Options) {
    this.inner = Poller.make(options)
    const { inner } = this
    this.scheduler = new Scheduler.MixedScheduler("async", (task) => {
      this.scheduled++
      this.count++
      const immediate = setImmediate(() => {
        this.scheduled--
        task()
      })
      return () => {
        this.scheduled--
        clearImmediate(immediate)
      }
    })
    this.poller = {
      add: inner.add,
      remove: inner.remove,
      // Whoever rings, posts or is posted to says so.
      heat: () => {
        this.count++
        inner.heat()
      },
      onTurn: inner.onTurn,
      get isParked() {
        return inner.isParked
      },
      stats: inner.stats
    }
  }

  /** To be called for whatever is neither rung, nor posted, nor scheduled. */
  touch(): void {
    this.count++
  }

  private get activity(): number {
    return this.count + this.inner.stats.dispatches
  }

  /** Waits until there is nothing to do, and returns how much was done so far. */
  async come(): Promise<number> {
    for (let rounds = 0; ; rounds++) {
      if (rounds === 10_000) throw new Error("a thread never comes to rest")
      const before = this.activity
      await this.look()
      if (this.activity === before && this.scheduled === 0 && this.inner.isParked) return before
    }
  }

  /** Has the poller look at all of its sources, and waits until it parks. */
  private look(): Promise<void> {
    return new Promise((resolve) => {
      const { inner } = this
      const probe: Poller.Source = {
        hasNews: () => false,
        take: () => false,
        park() {
          setImmediate(() => {
            inner.remove(probe)
            resolve()
          })
          return true
        },
        unpark() {}
      }
      // A source that was not there is looked at, and with it all others, also where the poller has reason not to.
      inner.add(probe)
    })
  }
}
