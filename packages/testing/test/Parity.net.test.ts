/** The same conversations over what stands where `node:net` stands. */
import { CutThroughNet, CutThroughNode } from "@cut-through/platform"
import { Leaks, Parity } from "@cut-through/testing"
import { describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Application } from "@cut-through/core"
import { parityWithNet } from "./parity-fixtures.ts"

describe("parity with node:net", () => {
  it.live("CutThroughNet", () =>
    Effect.gen(function* () {
      const net = yield* CutThroughNet.make
      yield* parityWithNet(Parity.net(net, "CutThroughNet"))
    }).pipe(
      Effect.scoped,
      Effect.provide(
        Layer.provide(
          Application.layer({ name: "net" }),
          Layer.provide(Leaks.layerSessions(), CutThroughNode.layerCopy)
        )
      )
    )
  )
})
