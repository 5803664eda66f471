package account

import (
	"context"
	"strings"

	"hearth/matrix/id"
	"hearth/store"
)

// ThreePID is an address of an account.
type ThreePID = store.ThreePID

// ListThreePIDs lists the addresses of an account.
func (a *Accounts) ListThreePIDs(ctx context.Context, u id.User) (list []store.ThreePID, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) (err error) {
		list, err = tx.Users.ListThreePIDs(u)
		return
	})
	return
}

// AddThreePID adds an address whose owner has been proven to an account;
// false: it is somebody else's.
func (a *Accounts) AddThreePID(ctx context.Context, u id.User, medium, address string) (ok bool, err error) {
	now := nowMS()
	err = a.store.Update(ctx, func(tx *store.Tx) (err error) {
		ok, err = tx.Users.InsertThreePID(u, store.ThreePID{Medium: medium, Address: canonicalAddress(medium, address), ValidatedAt: now, AddedAt: now})
		return
	})
	return
}

// DeleteThreePID takes an address off an account.
func (a *Accounts) DeleteThreePID(ctx context.Context, u id.User, medium, address string) error {
	return a.store.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.Users.DeleteThreePID(u, medium, canonicalAddress(medium, address))
		return err
	})
}

// canonicalAddress is the form under which an address is stored.
// spec: appendices#3pid-types
func canonicalAddress(medium, address string) string {
	switch medium {
	case "email":
		return strings.ToLower(strings.TrimSpace(address))
	case "msisdn":
		return digits(address)
	}
	return address
}

func digits(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, s)
}

// msisdns reads a phone number as dialled from a country. Some countries drop a
// leading zero in international form and some keep it, so there may be two readings.
// spec: client-server-api#phone-number
func msisdns(country, phone string) []string {
	number := digits(phone)
	if number == "" || len(number) > 20 {
		return nil
	}
	if strings.HasPrefix(strings.TrimSpace(phone), "+") {
		return []string{number}
	}
	code, ok := callingCodes[country]
	if !ok {
		return nil
	}
	if rest, ok := strings.CutPrefix(number, "00"); ok && rest != "" {
		return []string{rest}
	}
	// Within North America the country code itself is the prefix.
	if rest, ok := strings.CutPrefix(number, "1"); ok && code[0] == '1' && len(number) == 11 {
		return []string{"1" + rest}
	}
	candidates := []string{code + number}
	if len(code) == 4 && code[0] == '1' && len(number) == 10 {
		candidates = []string{"1" + number}
	}
	for _, trunk := range []string{"0", "8"} {
		if rest, ok := strings.CutPrefix(number, trunk); ok && rest != "" && (trunk == "0" || code == "7") {
			candidates = append(candidates, code+rest)
		}
	}
	return candidates
}

// callingCodes is ITU-T E.164's list by ISO 3166-1 code. Members of the North
// American plan have their area code where they have a single one.
var callingCodes = func() map[string]string {
	const list = `AC247 AD376 AE971 AF93 AG1268 AI1264 AL355 AM374 AO244 AR54 AS1684 AT43 AU61 AW297 AX358 AZ994
BA387 BB1246 BD880 BE32 BF226 BG359 BH973 BI257 BJ229 BL590 BM1441 BN673 BO591 BQ599 BR55 BS1242 BT975 BW267 BY375 BZ501
CA1 CC61 CD243 CF236 CG242 CH41 CI225 CK682 CL56 CM237 CN86 CO57 CR506 CU53 CV238 CW599 CX61 CY357 CZ420
DE49 DJ253 DK45 DM1767 DO1 DZ213 EC593 EE372 EG20 EH212 ER291 ES34 ET251 FI358 FJ679 FK500 FM691 FO298 FR33
GA241 GB44 GD1473 GE995 GF594 GG44 GH233 GI350 GL299 GM220 GN224 GP590 GQ240 GR30 GT502 GU1671 GW245 GY592
HK852 HN504 HR385 HT509 HU36 ID62 IE353 IL972 IM44 IN91 IO246 IQ964 IR98 IS354 IT39 JE44 JM1 JO962 JP81
KE254 KG996 KH855 KI686 KM269 KN1869 KP850 KR82 KW965 KY1345 KZ7 LA856 LB961 LC1758 LI423 LK94 LR231 LS266 LT370 LU352 LV371 LY218
MA212 MC377 MD373 ME382 MF590 MG261 MH692 MK389 ML223 MM95 MN976 MO853 MP1670 MQ596 MR222 MS1664 MT356 MU230 MV960 MW265 MX52 MY60 MZ258
NA264 NC687 NE227 NF672 NG234 NI505 NL31 NO47 NP977 NR674 NU683 NZ64 OM968 PA507 PE51 PF689 PG675 PH63 PK92 PL48 PM508 PR1 PS970 PT351 PW680 PY595
QA974 RE262 RO40 RS381 RU7 RW250 SA966 SB677 SC248 SD249 SE46 SG65 SH290 SI386 SJ47 SK421 SL232 SM378 SN221 SO252 SR597 SS211 ST239 SV503 SX1721 SY963 SZ268
TA290 TC1649 TD235 TG228 TH66 TJ992 TK690 TL670 TM993 TN216 TO676 TR90 TT1868 TV688 TW886 TZ255 UA380 UG256 US1 UY598 UZ998
VA39 VC1784 VE58 VG1284 VI1340 VN84 VU678 WF681 WS685 XK383 YE967 YT262 ZA27 ZM260 ZW263`
	codes := map[string]string{}
	for _, c := range strings.Fields(list) {
		codes[c[:2]] = c[2:]
	}
	return codes
}()
