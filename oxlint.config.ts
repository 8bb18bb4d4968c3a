import { defineConfig } from "oxlint"

// Each folder of core stands only on those before it; the files at the top of src are the face and stand on all.
const floors = ["memory", "runtime", "segment", "session", "transport"]

// The words every floor may use. They import nothing of the package but each other.
const vocabulary = ["Endpoint", "SessionError"]

const barrels = {
  regex: "^(effect(/[a-z-]+)?|@effect/[^/]+)$",
  message: "Import the module itself (`effect/Effect`): a barrel loads all of its siblings."
}

const unstable = {
  group: ["effect/*/*"],
  message: "Core stands on Effect's stable modules only."
}

const upwards = {
  group: ["@cut-through/**"],
  message: "Core imports itself by relative path and knows no other package."
}

const restricted = (...patterns: Array<{ group: Array<string>; message: string }>) =>
  ({ "no-restricted-imports": ["error", { patterns: [barrels, ...patterns] }] }) as const

export default defineConfig({
  plugins: ["eslint", "typescript", "unicorn", "oxc", "import", "vitest"],
  categories: { correctness: "error", suspicious: "error" },
  options: { reportUnusedDisableDirectives: "error" },
  rules: {
    "import/no-cycle": "error",
    "no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],

    // At odds with how Effect programs are written: `_tag`, an inner `scope` beside an outer one, a helper
    // beside its only use, `new Array(n)` to be filled, and a port's `postMessage`, which has no origin.
    "no-shadow": "off",
    "no-underscore-dangle": "off",
    "unicorn/consistent-function-scoping": "off",
    "unicorn/no-new-array": "off",
    "unicorn/require-post-message-target-origin": "off",

    // Laws and assertions also live in helpers of the testing package.
    "vitest/expect-expect": "off",
    "vitest/no-standalone-expect": "off",
    "vitest/no-conditional-expect": "off"
  },
  overrides: [
    { files: ["packages/*/src/**"], rules: restricted() },
    {
      files: ["packages/core/src/**"],
      rules: { ...restricted(upwards, unstable), "import/no-nodejs-modules": "error" }
    },
    ...floors.map((floor, height) => {
      const below = floors.slice(0, height)
      return {
        files: [`packages/core/src/${floor}/**`],
        rules: restricted(upwards, unstable, {
          group: [
            "../**",
            "./../**",
            ...below.map((name) => `!../${name}/*`),
            ...vocabulary.map((word) => `!../${word}.ts`)
          ],
          message: `Reachable from ${floor}/: ${["itself", ...below, ...vocabulary].join(", ")}.`
        })
      }
    }),
    {
      files: vocabulary.map((word) => `packages/core/src/${word}.ts`),
      rules: restricted(
        upwards,
        { ...unstable, group: [...unstable.group, "!effect/net/NetAddress"] },
        {
          group: ["./**", ...vocabulary.map((word) => `!./${word}.ts`)],
          message: `Every floor may import ${vocabulary.join(" and ")}, so they import nothing else of the package.`
        }
      )
    }
  ]
})
