// Sends dropped files one after the other to the upload route: progress, pause, resume after a break or a reload, cancel.
// Names come from outside and are only ever set as text.

const PIECE = 256 * 1024 * 1024 // bytes of the first request; the server reads again what it has, so pieces grow with the file
const PATIENCE = [1, 2, 4, 8, 15] // seconds between attempts while the server cannot be reached
const UNHEARD = 8000 // ms after which the page is told again that all has arrived: a restarted server forgot it
const MEMORY = "microtome-upload" // which upload these files belonged to, for going on after a reload
const runs = new WeakMap(), folderOf = new WeakMap()

export default function (component) {
  const { parentElement, data, setTriggerValue } = component
  let run = runs.get(parentElement)
  if (!run) {
    run = new Run(parentElement)
    runs.set(parentElement, run)
  }
  run.data = data
  run.trigger = value => setTriggerValue("arrived", value)
  if (run.finished && data.seen === run.finished.id) run.heard()
}

class Run {
  constructor(root) {
    this.root = root
    this.drop = root.querySelector(".drop")
    this.input = root.querySelector("input")
    this.drop.onclick = () => this.input.click()
    this.drop.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.input.click() } }
    this.input.onclick = event => event.stopPropagation()
    this.input.onchange = () => { this.begin([...this.input.files]); this.input.value = "" }
    for (const name of ["dragover", "dragenter"]) this.drop.addEventListener(name, event => { event.preventDefault(); this.drop.classList.add("over") })
    this.drop.addEventListener("dragleave", () => this.drop.classList.remove("over"))
    this.drop.addEventListener("drop", async event => {
      event.preventDefault()
      this.drop.classList.remove("over")
      this.begin(await dropped(event.dataTransfer))
    })
    root.querySelector(".hold").onclick = () => this.hold()
    root.querySelector(".stop").onclick = () => this.stop()
  }

  async begin(files) {
    if (this.busy || !files.length) return
    this.say("")
    const total = files.reduce((sum, file) => sum + file.size, 0)
    const limit = this.data.limit
    if (files.length > this.data.files) return this.say(`${files.length} files were dropped; at most ${this.data.files} come in one upload. Pack them as one .zip or .tar.`)
    if (total > limit) return this.say(`The files have ${bytes(total)}; at most ${bytes(limit)} come through the browser. Open a large checkpoint by its folder or a hub's name.`)
    if (new Set(files.map(file => file.name)).size < files.length) return this.say("Two of the files have the same name. Drop one model at a time.")
    this.busy = true
    this.files = files
    this.paused = this.cancelled = false
    this.list()
    try {
      const upload = await this.found() || await this.ask("POST", "", { files: Object.fromEntries(files.map(file => [file.name, file.size])) })
      this.id = upload.id
      localStorage.setItem(MEMORY, JSON.stringify({ id: upload.id, files: key(files) }))
      for (const file of files) await this.send(file, upload.received[file.name] || 0)
      localStorage.removeItem(MEMORY)
      this.sum("opening …")
      this.finished = { id: this.id, title: called(files) }
      this.trigger(this.finished)
      this.telling = setInterval(() => this.root.isConnected === false ? this.heard() : this.trigger(this.finished), UNHEARD)
    } catch (problem) {
      if (!this.cancelled) this.say(problem.message)
      this.end()
    }
  }

  heard() {
    clearInterval(this.telling)
    this.finished = null
  }

  async found() { // the same files of an upload that was interrupted
    const kept = JSON.parse(localStorage.getItem(MEMORY) || "null")
    if (!kept || kept.files !== key(this.files)) return null
    try { return await this.ask("GET", "/" + kept.id) } catch { return null }
  }

  async send(file, offset) {
    let failures = 0
    this.show(file, offset)
    while (offset < file.size) {
      if (this.cancelled) throw new Error("cancelled")
      if (this.paused) { await new Promise(go => { this.go = go }); offset = (await this.ask("GET", "/" + this.id)).received[file.name]; continue }
      const end = Math.min(file.size, offset + Math.max(PIECE, offset))
      try {
        offset = (await this.put(file, offset, end)).received
        failures = 0
      } catch (problem) {
        if (this.cancelled) throw problem
        if (this.paused) continue
        if (problem.refused || failures >= PATIENCE.length) throw problem
        this.state(file, "waiting for the server")
        await new Promise(go => setTimeout(go, 1000 * PATIENCE[failures++]))
        try { offset = (await this.ask("GET", "/" + this.id)).received[file.name] } catch (again) { if (again.refused) throw again }
      }
    }
    this.show(file, file.size)
  }

  put(file, offset, end) {
    return new Promise((resolve, reject) => {
      const request = this.request = new XMLHttpRequest()
      request.open("PUT", `${this.data.route}/${this.id}/${encodeURIComponent(file.name)}?offset=${offset}`)
      request.setRequestHeader("X-Microtome-Ticket", this.data.ticket)
      request.upload.onprogress = event => this.show(file, offset + event.loaded)
      request.onload = () => { try { resolve(answer(request.status, request.responseText)) } catch (problem) { reject(problem) } }
      request.onerror = () => reject(new Error("The server cannot be reached. Drop the same files again to go on where it stopped."))
      request.onabort = () => reject(new Error("stopped"))
      request.send(file.slice(offset, end))
    })
  }

  async ask(method, path, body) {
    const response = await fetch(this.data.route + path, { method, headers: { "X-Microtome-Ticket": this.data.ticket }, body: body && JSON.stringify(body) })
    return answer(response.status, await response.text())
  }

  hold() {
    this.paused = !this.paused
    this.root.querySelector(".hold").textContent = this.paused ? "Go on" : "Pause"
    if (this.paused) this.request?.abort()
    else this.go?.()
  }

  async stop() {
    this.cancelled = true
    this.request?.abort()
    this.go?.()
    localStorage.removeItem(MEMORY)
    const id = this.id
    this.end()
    if (id) try { await this.ask("DELETE", "/" + id) } catch { /* it goes by itself after a day */ }
  }

  end() {
    this.heard()
    this.busy = false
    this.id = null
    this.drop.classList.remove("busy")
    this.root.querySelector(".rows").replaceChildren()
    this.root.querySelector(".foot").hidden = true
    this.root.querySelector(".hold").textContent = "Pause"
  }

  list() {
    this.rows = new Map()
    this.drop.classList.add("busy")
    this.root.querySelector(".foot").hidden = false
    const all = this.files.map(file => {
      const row = element("div", "row"), name = element("div", "name"), state = element("div", "state"), track = element("div", "track"), fill = element("div", "fill")
      name.textContent = file.name
      track.append(fill)
      row.append(name, state, track)
      this.rows.set(file, { state, fill, sent: 0 })
      return row
    })
    this.root.querySelector(".rows").replaceChildren(...all)
  }

  show(file, sent) {
    const row = this.rows.get(file)
    row.sent = sent
    row.fill.style.width = `${100 * sent / Math.max(file.size, 1)}%`
    row.state.textContent = sent >= file.size ? bytes(file.size) : `${bytes(sent)} of ${bytes(file.size)}`
    const done = [...this.rows.values()].reduce((sum, each) => sum + each.sent, 0), total = this.files.reduce((sum, each) => sum + each.size, 0)
    this.sum(`${Math.floor(100 * done / Math.max(total, 1))} % of ${bytes(total)}`)
  }

  state(file, text) { this.rows.get(file).state.textContent = text }
  sum(text) { this.root.querySelector(".sum").textContent = text }
  say(text) {
    const place = this.root.querySelector(".error")
    place.textContent = text
    place.hidden = !text
  }
}

function answer(status, text) {
  let body = {}
  try { body = JSON.parse(text) } catch { /* not ours: a proxy's page */ }
  if (status >= 200 && status < 300) return body
  const problem = new Error(body.error || `The server answered ${status}. Drop the same files again to go on.`)
  problem.refused = status >= 400 && status < 500 && status !== 429 && Boolean(body.error) && !body.error.includes("interrupted")
  throw problem
}

async function dropped(transfer) { // files, and the files directly inside dropped folders
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean)
  if (!entries.length) return [...transfer.files]
  const lists = await Promise.all(entries.map(entry => entry.isFile ? [entry] : inside(entry)))
  const files = await Promise.all(lists.flat().map(entry => new Promise((resolve, reject) => entry.file(resolve, reject))))
  if (entries.length === 1 && !entries[0].isFile) folderOf.set(files, entries[0].name)
  return files
}

async function inside(folder) {
  const reader = folder.createReader(), found = []
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))
    if (!some.length) return found.filter(entry => entry.isFile && !entry.name.startsWith("."))
    found.push(...some)
  }
}

function called(files) { // a dropped folder's name, or the largest file's where it says more than "model"
  const largest = files.reduce((a, b) => b.size > a.size ? b : a)
  const stem = largest.name.replace(/\.(safetensors|gguf|zip|bin|pth?|tar(\.(gz|zst))?|tgz)$/, "").replace(/-\d{5}-of-\d{5}$/, "")
  return folderOf.get(files) || (/^(pytorch_|adapter_)?model$/.test(stem) ? "" : stem)
}

const element = (tag, name) => Object.assign(document.createElement(tag), { className: name })
const key = files => files.map(file => `${file.name}|${file.size}|${file.lastModified}`).sort().join("\n")
const bytes = n => n >= 1e9 ? `${(n / 1e9).toFixed(2)} GB` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} MB` : n >= 1e3 ? `${(n / 1e3).toFixed(0)} KB` : `${n} bytes`
