// Uploads the file FILE to ENDPOINT by tus-js-client as it is, and prints the upload's address and the retries.
import { readFileSync } from 'node:fs'
import * as tus from 'tus-js-client'

const { ENDPOINT, KEY, FILE, CHUNK, OVERRIDE } = process.env
let retries = 0
const upload = new tus.Upload(readFileSync(FILE), {
  endpoint: ENDPOINT,
  chunkSize: CHUNK ? Number(CHUNK) : Infinity,
  overridePatchMethod: Boolean(OVERRIDE),
  headers: { Authorization: `Bearer ${KEY}` },
  metadata: { filename: 'model.pt2' },
  retryDelays: [0, 20, 50, 100, 200, 400, 800, 1600],
  onShouldRetry: (error, attempt, options) => {
    retries += 1
    const status = error.originalResponse ? error.originalResponse.getStatus() : 0
    return status < 400 || status >= 500 || status === 409 || status === 423
  },
  onError: (error) => {
    console.error(String(error))
    process.exit(1)
  },
  onSuccess: () => console.log(JSON.stringify({ url: upload.url, retries })),
})
upload.start()
