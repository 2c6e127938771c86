package enginesocket

import (
	"encoding/binary"
	"strings"
)

// solveFields are the numbers of two fields of a Solve call's message: the
// frontend's name, and its options, a map of strings.
type solveFields struct{ frontend, options uint64 }

// solveCalls begin builds: moby.buildkit.v1.SolveRequest of BuildKit's
// control.proto, and moby.buildkit.v1.frontend.SolveRequest of its
// gateway.proto, which clients use that follow the build themselves.
var solveCalls = map[string]solveFields{
	"/moby.buildkit.v1.Control/Solve":            {frontend: 6, options: 7},
	"/moby.buildkit.v1.frontend.LLBBridge/Solve": {frontend: 2, options: 3},
}

// buildArg is how the Dockerfile frontend calls `--build-arg` in its options.
const buildArg = "build-arg:"

// grpcPrefix is what stands before a message: a byte that says whether it is
// compressed, and four with its length.
const grpcPrefix = 5

// addToMessage adds build arguments to a gRPC message that uses a frontend. Fields
// of protobuf may stand in any order, so they are added at the end. A message
// that it does not understand stays as it is.
func addToMessage(framed []byte, fields solveFields, args []string) []byte {
	if len(framed) < grpcPrefix || framed[0] != 0 || binary.BigEndian.Uint32(framed[1:]) != uint32(len(framed)-grpcPrefix) {
		return framed
	}
	message := framed[grpcPrefix:]
	var frontend string
	var set []string
	ok := eachField(message, func(number uint64, value []byte) bool {
		switch number {
		case fields.frontend:
			frontend = string(value)
		case fields.options:
			return eachField(value, func(number uint64, key []byte) bool {
				if arg, is := strings.CutPrefix(string(key), buildArg); is && number == 1 {
					set = append(set, arg)
				}
				return true
			})
		}
		return true
	})
	if !ok || frontend == "" {
		return framed
	}
	out := append([]byte{}, framed...)
	for _, arg := range missing(args, set) {
		key, value, _ := strings.Cut(arg, "=")
		entry := appendField(appendField(nil, 1, buildArg+key), 2, value)
		out = appendField(out, fields.options, string(entry))
	}
	binary.BigEndian.PutUint32(out[1:], uint32(len(out)-grpcPrefix))
	return out
}

// The wire types of protobuf that are in use.
const (
	varint = 0
	fixed8 = 1
	bytesN = 2
	fixed4 = 5
)

// eachField calls use for each field of a message that has a length, and reports
// whether the message is whole and use was content each time.
func eachField(message []byte, use func(number uint64, value []byte) bool) bool {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return false
		}
		message = message[n:]
		var size uint64
		switch tag & 7 {
		case varint:
			if _, n = binary.Uvarint(message); n <= 0 {
				return false
			}
			size = uint64(n)
		case fixed8:
			size = 8
		case fixed4:
			size = 4
		case bytesN:
			if size, n = binary.Uvarint(message); n <= 0 {
				return false
			}
			message = message[n:]
		default:
			return false
		}
		if size > uint64(len(message)) {
			return false
		}
		if tag&7 == bytesN && !use(tag>>3, message[:size]) {
			return false
		}
		message = message[size:]
	}
	return true
}

func appendField(to []byte, number uint64, value string) []byte {
	to = binary.AppendUvarint(to, number<<3|bytesN)
	to = binary.AppendUvarint(to, uint64(len(value)))
	return append(to, value...)
}
