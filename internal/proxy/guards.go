package proxy

// guards is JavaScript that runs before the script, and keeps the built-in
// functions from being asked for more than a PAC script ever needs: they can't be
// interrupted, and a single call could take minutes, or all the memory. Its
// argument is maxSequence.
const guards = `(function (max) {
	"use strict";
	const apply = Reflect.apply, define = Object.defineProperty, names = Object.getOwnPropertyNames;
	const fail = function (what) { throw new RangeError(what + ": too long for a PAC script"); };
	const check = function (what, v) {
		if (v !== null && v !== undefined && (typeof v === "string" || typeof v === "object" || typeof v === "function") && v.length > max) fail(what);
		return v;
	};
	const guard = function (owner, name, sizes) {
		const inner = owner[name];
		if (typeof inner !== "function") return;
		const outer = { [name]() {
			check(name, this);
			for (let i = 0; i < arguments.length; i++) {
				check(name, arguments[i]);
				if (sizes && +arguments[i] > max) fail(name);
			}
			return check(name, apply(inner, this, arguments));
		} }[name];
		define(owner, name, { value: outer, writable: true, configurable: true, enumerable: false });
	};
	for (const proto of [Array.prototype, String.prototype, RegExp.prototype, Function.prototype]) {
		for (const name of names(proto)) {
			if (name === "constructor" || name === "toString" || name === "valueOf") continue;
			const d = Object.getOwnPropertyDescriptor(proto, name);
			if (d && typeof d.value === "function") guard(proto, name, name === "repeat" || name === "padStart" || name === "padEnd");
		}
	}
	for (const name of ["join", "toString"]) guard(Array.prototype, name, false);
	for (const name of ["from", "of"]) guard(Array, name, false);
	for (const name of ["apply", "construct"]) guard(Reflect, name, false);
	guard(JSON, "stringify", false);
	for (const name of ["eval", "Function", "ArrayBuffer", "SharedArrayBuffer", "DataView", "Int8Array", "Uint8Array", "Uint8ClampedArray", "Int16Array",
		"Uint16Array", "Int32Array", "Uint32Array", "Float32Array", "Float64Array", "BigInt64Array", "BigUint64Array", "BigInt", "Proxy", "Promise"])
		delete globalThis[name];
})`
