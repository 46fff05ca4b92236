// What npm's xen-api, the client of Xen Orchestra, sees of a pool: lines of JSON on the standard
// output, one as soon as it has all records, and one for each line that it reads.
//   node client.mjs <directory of xen-api> <URL with user and password>
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const [directory, url] = process.argv.slice(2)
const { createClient } = await import(pathToFileURL(`${directory}/index.mjs`))
const classes = [
  'pool', 'host', 'host_metrics', 'VM', 'VM_metrics', 'VM_guest_metrics', 'VIF', 'VBD', 'VDI',
]

const xapi = createClient({ url, allowUnauthorized: true, debounce: 20 })
const say = value => process.stdout.write(`${JSON.stringify(value)}\n`)

await xapi.connect()
await xapi.objectsFetched
const counts = {}
for (const name of classes) {
  counts[name] = (await xapi.getAllRecords(name)).length
}
const vms = Object.values(xapi.objects.all).filter(object => object.$type === 'VM')
say({
  counts,
  objects: Object.keys(xapi.objects.all).length,
  pool: xapi.pool.name_label,
  residents: Object.fromEntries(
    vms.map(vm => [vm.uuid, [vm.$resident_on?.uuid ?? null, vm.$VIFs.length, vm.$VBDs.length]])
  ),
})

// A uuid asks for what is known of an object by events, without a call.
for await (const uuid of createInterface({ input: process.stdin })) {
  const wanted = JSON.parse(uuid)
  const deadline = Date.now() + 60_000
  let vm
  do {
    await new Promise(resolve => setTimeout(resolve, 20))
    vm = xapi.getObjectByUuid(wanted.uuid, undefined)
  } while (vm?.power_state !== wanted.power_state && Date.now() < deadline)
  say({ power_state: vm?.power_state })
}
await xapi.disconnect()
process.exit(0)
