/** What the tests of the session floor share: sessions over real leases, and session layers over services of the test's own. */
import { LocalDoorbell } from "@cut-through/core/memory/Doorbell"
import * as SharedMemory from "@cut-through/core/memory/SharedMemory"
import * as Endpoint from "@cut-through/core/Endpoint"
import { NONE } from "@cut-through/core/runtime/HandleTable"
import * as Lock from "@cut-through/core/runtime/Lock"
import * as Wake from "@cut-through/core/runtime/Wake"
import * as SegmentContext from "@cut-through/core/segment/SegmentContext"
import type { AppWorker } from "@cut-through/core/session/AppWorker"
import * as Connections from "@cut-through/core/session/Connections"
import { NO_SESSION, type Session } from "@cut-through/core/session/Session"
import * as SessionLayer from "@cut-through/core/session/SessionLayer"
import { Leaks } from "@cut-through/testing"
import * as Layer from "effect/Layer"
import { endpoint } from "../fixtures.ts"

export const makeSession = (leases: SegmentContext.Leases, app: AppWorker, worker = 1): Session => ({
  side: "server",
  worker,
  handle: NONE,
  state: "created",
  app,
  local: endpoint,
  remote: Endpoint.withPort(endpoint, 50_000),
  rx: leases.rx,
  tx: leases.tx,
  lease: leases.server,
  doorbell: new LocalDoorbell(),
  peerDoorbell: new LocalDoorbell(),
  peer: NO_SESSION,
  onClosing: undefined
})

/** A session layer over the real services but for those given, checked for leaks at the end. */
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
    Layer.provide([services.memory ?? SharedMemory.layer, services.lock ?? Lock.layer]),
    Layer.fresh
  )
