// The pictures in the order in which they came, two at a time on their way to the server.

const AT_ONCE = 2;  // one is decoded there while the other is segmented

/** work(item, signal) answers or throws; changed(item) is called whenever a state or the wait has changed, item null for the wait. */
export class Queue {
  constructor(work, changed) {
    Object.assign(this, { work, changed, items: [], running: 0, pausedUntil: 0, wait_s: 0 });
  }

  add(item) {
    this.items.push(Object.assign(item, { state: "waiting", abort: new AbortController() }));
    this.go();
  }

  again(item) {
    Object.assign(item, { state: "waiting", refusal: null });
    this.go();
  }

  remove(item) {
    item.abort.abort();
    this.items = this.items.filter((other) => other !== item);
  }

  count(state) {
    return this.items.filter((item) => item.state === state).length;
  }

  go() {
    while (this.running < AT_ONCE && Date.now() >= this.pausedUntil) {
      const item = this.items.find((each) => each.state === "waiting");
      if (!item) return;
      this.one(item);
    }
  }

  async one(item) {
    this.running++;
    this.set(item, "working");
    try {
      item.answer = await this.work(item, item.abort.signal);
      this.set(item, "done");
    } catch (error) {
      item.refusal = error;
      if (error.wait_s) this.pause(error.wait_s);
      this.set(item, error.wait_s ? "waiting" : "refused");
    }
    this.running--;
    this.go();
  }

  set(item, state) {
    item.state = state;
    if (this.items.includes(item)) this.changed(item);
  }

  pause(seconds) {
    const idle = this.wait_s === 0;
    this.pausedUntil = Math.max(this.pausedUntil, Date.now() + 1000 * seconds);
    if (idle) this.tick();
  }

  tick() {
    this.wait_s = Math.max(0, Math.ceil((this.pausedUntil - Date.now()) / 1000));
    this.changed(null);
    if (this.wait_s) setTimeout(() => this.tick(), Math.min(1000, this.pausedUntil - Date.now()));
    else this.go();
  }
}
