/**
 * Holds the documentation to its word: every export is described, every link leads somewhere, and every example in a
 * docstring or a Markdown file runs. In an example `expression // => value` asserts deep equality, at any depth and
 * also behind `await`, `yield*`, `const name =` and `console.log`; a fence marked `no-run` is only type-checked.
 */
import { execFileSync, spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { parseAst, startVitest } from "vitest/node"

const problems: Array<string> = []
const complain = (file: string, line: number, message: string) => problems.push(`${file}:${line} ${message}`)

const list = (...patterns: ReadonlyArray<string>) =>
  execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard", ...patterns], {
    encoding: "utf8"
  })
    .split("\0")
    .filter((file) => file !== "" && Fs.existsSync(file))
    .toSorted()

const lineAt = (text: string, offset: number) => text.slice(0, offset).split("\n").length

// ---- Exports ---------------------------------------------------------------------------------------------------------

interface Node {
  readonly type: string
  readonly start: number
  readonly end: number
  readonly [key: string]: any
}

const parse = (file: string, line: number, source: string): Node => {
  try {
    return parseAst(source, { lang: "ts" })
  } catch (error) {
    complain(file, line, `does not parse: ${error}`)
    return { type: "Program", start: 0, end: 0, body: [] }
  }
}

const docBefore = (source: string, offset: number) => /\/\*\*(?:(?!\*\/)[^])*\*\/\s*$/.exec(source.slice(0, offset))

const plain = (doc: string) => doc.replace(/^\s*\/\*\*|\*\/\s*$/g, "").replace(/^[ \t]*\* ?/gm, "")

const since = /^@since \d/m
const category = /^@category [^A-Z\n]+$/m

const checkDoc = (file: string, line: number, name: string, doc: string | undefined, isModule = false) => {
  if (doc === undefined) return complain(file, line, `${name} has no docstring`)
  const text = plain(doc)
  if (/^@internal\b/m.test(text)) return
  if (!/\S/.test(text.split(/^@/m)[0])) complain(file, line, `${name} has no description`)
  if (!since.test(text)) complain(file, line, `${name} lacks @since`)
  if (!isModule && !category.test(text)) complain(file, line, `${name} lacks a lower-case @category`)
}

const checkExports = (file: string, source: string): number => {
  const header = /^\s*\/\*\*[^]*?\*\//.exec(source)
  const described = new Set<string>()
  let count = 0

  const check = (node: Node, name: string) => {
    count++
    const doc = docBefore(source, node.start)
    // A lone comment above the first export describes the module, not the export.
    const own = doc?.index === header?.index ? undefined : doc?.[0]
    checkDoc(file, lineAt(source, node.start), name, own)
  }

  const visit = (statement: Node, inside = "") => {
    const declaration: Node | null | undefined = statement.declaration
    for (const specifier of statement.source ? [] : (statement.specifiers ?? [])) {
      check(specifier, inside + (specifier.exported.name ?? specifier.exported.value))
    }
    if (!declaration) return
    for (const { id } of declaration.declarations ?? [declaration]) {
      const name = inside + (id?.name ?? "default")
      const overload = `${name} ${/Function/.test(declaration.type)}`
      if (!described.has(overload)) check(statement, name)
      if (/Function/.test(declaration.type)) described.add(overload)
      for (const nested of declaration.type === "TSModuleDeclaration" ? declaration.body.body : []) {
        visit(nested, `${name}.`)
      }
    }
  }

  checkDoc(file, 1, "The module", header?.[0], true)
  for (const statement of parse(file, 1, source).body) visit(statement)
  return count
}

// ---- Links -----------------------------------------------------------------------------------------------------------

// Blanked rather than removed, so that line numbers hold.
const blank = (match: string) => match.replace(/[^\n]/g, " ")
const withoutFences = (text: string) => text.replace(/^ *(```+)[^]*?^ *\1/gm, blank)

const anchors = (file: string): ReadonlySet<string> => {
  const seen = new Map<string, number>()
  const slugs = new Set<string>()
  const text = withoutFences(Fs.readFileSync(file, "utf8"))
  for (const [, heading] of text.matchAll(/^#+ +(.+?) *#*$/gm)) {
    const words = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").toLowerCase()
    const slug = words.replace(/[^\p{L}\p{N}\s_-]/gu, "").replace(/\s/g, "-")
    const times = seen.get(slug) ?? 0
    seen.set(slug, times + 1)
    slugs.add(times === 0 ? slug : `${slug}-${times}`)
  }
  for (const [, id] of text.matchAll(/<a (?:id|name)="([^"]+)"/g)) slugs.add(id)
  return slugs
}

const checkLinks = (file: string, source: string): number => {
  const text = withoutFences(source).replace(/`[^`\n]*`/g, blank)
  let count = 0
  for (const match of text.matchAll(/\]\(<?([^)\s>]+)>?(?: "[^"]*")?\)|^\[[^\]]+\]: *(\S+)/gm)) {
    const target = match[1] ?? match[2]
    if (/^[a-z]+:/i.test(target)) continue
    count++
    const [path, anchor] = target.split("#")
    const found = path === "" ? file : Path.join(Path.dirname(file), decodeURIComponent(path))
    const line = lineAt(text, match.index)
    if (!Fs.existsSync(found)) complain(file, line, `no such file: ${target}`)
    else if (anchor && found.endsWith(".md") && !anchors(found).has(anchor))
      complain(file, line, `no such anchor: ${target}`)
  }
  return count
}

// ---- Examples --------------------------------------------------------------------------------------------------------

interface Example {
  readonly file: string
  readonly line: number
  readonly run: boolean
  readonly code: string
}

const examplesOf = (file: string, source: string): Array<Example> => {
  const texts = file.endsWith(".md")
    ? [{ offset: 0, text: source }]
    : [...source.matchAll(/^[ \t]*\/\*\*[^]*?\*\//gm)].map((match) => ({ offset: match.index, text: plain(match[0]) }))
  return texts.flatMap(({ offset, text }) =>
    [...text.matchAll(/^( *)```ts\b([^\n]*)\n([^]*?)^ *```/gm)].map((fence) => {
      const [, indent, flags, code] = fence
      const line = lineAt(source, offset) + lineAt(text, fence.index) - 1
      const run = flags.trim() === ""
      if (!run && flags.trim() !== "no-run") complain(file, line, `unknown mark on the fence: ${flags.trim()}`)
      return { file, line, run, code: code.replaceAll(`\n${indent}`, "\n").slice(indent.length) }
    })
  )
}

// On the first line of the example, so that its lines keep their numbers.
const prelude =
  `import * as $assert from "node:assert/strict"; const $reached = new Set<number>(); ` +
  `const $equal = (claim: number, actual: unknown, expected: unknown) => ` +
  `{ $reached.add(claim); $assert.deepStrictEqual(actual, expected) }; `

// A claim inside a program that nobody runs would hold whatever it says.
const epilogue = (claims: number) => `\n$assert.equal($reached.size, ${claims}, "not every \`// =>\` was reached")\n`

const withAssertions = ({ code, file, line }: Example): string => {
  const edits: Array<{ start: number; end: number; text: string }> = []
  const visit = (node: unknown): void => {
    if (typeof node !== "object" || node === null) return
    for (const child of Object.values(node)) visit(child)
    const statement = node as Node
    const isExpression = statement.type === "ExpressionStatement"
    if (!isExpression && statement.type !== "VariableDeclaration") return
    const comment = /^[; \t]*\/\/ => (.+)/.exec(code.slice(statement.end))
    if (comment === null) return
    const call = statement.expression
    const logged = call?.callee && code.slice(call.callee.start, call.callee.end) === "console.log"
    const actual: Node = isExpression ? (logged ? call.arguments[0] : call) : statement.declarations[0].id
    const equal = `$equal(${edits.length}, (${code.slice(actual.start, actual.end)}), (${comment[1]}))`
    edits.push({
      start: isExpression ? statement.start : statement.end,
      end: statement.end + comment[0].length,
      text: isExpression ? equal : `; ${equal}`
    })
  }
  visit(parse(file, line, code))
  const claims = code.match(/\/\/ =>/g)?.length ?? 0
  if (edits.length !== claims) complain(file, line, "a `// =>` that follows no statement asserts nothing")
  let result = code
  for (const { end, start, text } of edits.toSorted((a, b) => b.start - a.start)) {
    result = result.slice(0, start) + text + result.slice(end)
  }
  return prelude + result + (edits.length > 0 ? epilogue(edits.length) : "")
}

const generated = ".generated"

const write = (path: string, text: string) => {
  Fs.mkdirSync(Path.dirname(path), { recursive: true })
  Fs.writeFileSync(path, text)
}

const moduleOf = ({ file, line }: Example) => `${file}/${line}.ts`

const generate = (examples: ReadonlyArray<Example>) => {
  Fs.rmSync(generated, { recursive: true, force: true })
  const config = {
    extends: "../tsconfig.json",
    compilerOptions: { composite: false, noUnusedLocals: false },
    // Named one by one: patterns pass over folders that begin with a dot, without a word.
    files: examples.map(moduleOf),
    include: [],
    references: []
  }
  write(`${generated}/tsconfig.json`, JSON.stringify(config, null, 2))
  for (const example of examples) write(`${generated}/${moduleOf(example)}`, withAssertions(example))
  const runnable = examples.filter((example) => example.run)
  for (const [file, group] of Map.groupBy(runnable, (example) => example.file)) {
    const tests = group.map(
      ({ line }) => `test("${file}:${line}", async () => void (await import("./${Path.basename(file)}/${line}.ts")))`
    )
    write(`${generated}/${file}.test.ts`, `import { test } from "vitest"\n${tests.join("\n")}\n`)
  }
}

// ---- All of it -------------------------------------------------------------------------------------------------------

let exported = 0
let links = 0
const examples: Array<Example> = []

for (const file of list("packages/*/src/*.ts", "*.md")) {
  const source = Fs.readFileSync(file, "utf8")
  examples.push(...examplesOf(file, source))
  if (file.endsWith(".md")) links += checkLinks(file, source)
  else if (!file.includes("/internal/")) exported += checkExports(file, source)
}
generate(examples)

const ran = examples.filter((example) => example.run).length
if (examples.length > 0) {
  const tsc = "node_modules/typescript/bin/tsc"
  const { status } = spawnSync(process.execPath, [tsc, "-p", generated], { stdio: "inherit" })
  if (status !== 0) problems.push("the examples do not type-check")
}
if (ran > 0) {
  const vitest = await startVitest([], { watch: false, include: [`${generated}/**/*.test.ts`] })
  await vitest.close()
}

for (const problem of problems) console.error(problem)
console.log(`${exported} exports, ${links} links, ${examples.length} examples of which ${ran} ran`)
if (problems.length > 0) process.exitCode = 1
