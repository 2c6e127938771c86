package dns

// truncate cuts an answer to limit bytes, which is at least minUDPSize: whole
// records are kept as long as they fit, the OPT record is kept, and TC is set (RFC
// 2181 section 9, RFC 6891 section 7), so that a client which can't use TCP still
// finds addresses. Compression pointers lead backwards and stay right.
func truncate(answer []byte, limit int) []byte {
	if len(answer) <= limit {
		return answer
	}
	counts, end, opt, ok := layout(answer, limit)
	out := append(make([]byte, 0, limit), answer[:end]...)
	out[2] |= flagTC
	if !ok {
		counts, opt = [sections]int{}, nil // unreadable: only the header is right
		out = out[:headerSize]
	}
	if opt != nil {
		out = append(out, opt...)
		counts[sections-1]++
	}
	for section, n := range counts {
		setCount(out, section, n)
	}
	return out
}

// layout finds how many records of each section fit into limit together with the
// OPT record, where the last of them ends, and the OPT record itself.
func layout(msg []byte, limit int) (counts [sections]int, end int, opt []byte, ok bool) {
	at := headerSize
	for range count(msg, 0) {
		next, ok := skipName(msg, at)
		if next += questionRR; !ok || next > limit {
			return counts, headerSize, nil, false
		}
		at = next
		counts[0]++
	}
	end = at
	if opt = findOPT(msg, at); len(opt) > limit-end {
		opt = nil
	}
	for section := 1; section < sections; section++ {
		for range count(msg, section) {
			rr, ok := recordAt(msg, at)
			if !ok || rr.end > limit-len(opt) {
				return counts, end, opt, true
			}
			if rr.isOPT { // comes last, in truncate; nothing is kept behind it
				return counts, end, opt, true
			}
			at, end = rr.end, rr.end
			counts[section]++
		}
	}
	return counts, end, opt, true
}

// findOPT returns the bytes of the OPT record of an answer whose records begin at
// offset at, nil when there is none.
func findOPT(msg []byte, at int) []byte {
	for range count(msg, 1) + count(msg, 2) + count(msg, 3) {
		rr, ok := recordAt(msg, at)
		if !ok {
			return nil
		}
		if rr.isOPT {
			return msg[at:rr.end]
		}
		at = rr.end
	}
	return nil
}
